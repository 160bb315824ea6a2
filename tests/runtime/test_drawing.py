"""Drawings that are held between two steps: stepped in turn, cancelled, finished, and what each step estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import BackendError, Drawing, Request, RequestError, Result, Step, TaylorSeer, TeaCache, load
from omnigen2_rt.runtime.backends.fake import FakeBackend
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import Pipeline

SMALL = Request(prompt="a cat", height_px=32, width_px=48, steps=3, seed=5)
REQUESTS = {
    "text": SMALL,
    "one branch": Request(prompt="a dog", height_px=32, width_px=32, steps=5, text_guidance=1.0),
    "edit": Request(prompt="blue", images=Image.new("RGB", (48, 32), "red"), steps=4, image_guidance=2.0),
    "dpm": Request(prompt="a hen", height_px=48, width_px=32, steps=6, scheduler="dpmsolver++", cfg_range=(0.0, 0.4)),
    "taylorseer": Request(prompt="a cow", height_px=32, width_px=32, steps=9, cache=TaylorSeer()),
    "teacache": Request(prompt="a pig", height_px=32, width_px=32, steps=6, cache=TeaCache(threshold=0.3)),
    "two at once": Request(prompt="a fox", height_px=32, width_px=32, steps=2, images_per_prompt=2),
}


@pytest.fixture(scope="module")
def pipe(bundles: dict[str, Path]) -> Iterator[Pipeline]:
    with load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


def assert_same(result: Result, expected: Result) -> None:
    assert result.latents.tobytes() == expected.latents.tobytes()
    assert [image.tobytes() for image in result.images] == [image.tobytes() for image in expected.images]
    assert [step.computed for step in result.steps] == [step.computed for step in expected.steps]


def test_drawings_stepped_in_turn_give_the_same_bytes_as_alone(pipe: Pipeline) -> None:
    alone = {name: pipe.generate(request) for name, request in REQUESTS.items()}
    drawings = {name: pipe.start(request) for name, request in REQUESTS.items()}
    while waiting := [drawing for drawing in drawings.values() if not drawing.done]:
        for drawing in waiting:
            drawing.step()
    for name, drawing in drawings.items():
        assert_same(drawing.finish(), alone[name])


def test_drawing_finished_after_some_steps_is_the_whole_drawing(pipe: Pipeline) -> None:
    drawing, indices = pipe.start(SMALL), list[int]()
    first = drawing.step()
    result = drawing.finish(lambda step: indices.append(step.index))
    assert (first.index, indices, drawing.total_steps) == (0, [1, 2], 3)
    assert_same(result, pipe.generate(SMALL))
    assert drawing.finish() is result and drawing.done
    assert set(result.timings) == {"prompt", "references", "denoising", "decoding"}


def test_drawing_shows_its_noise_before_the_first_step_and_its_latents_after_each(pipe: Pipeline) -> None:
    drawing = pipe.start(SMALL)
    again = pipe.generate(Request(prompt="a cat", height_px=32, width_px=48, steps=3, latents=drawing.latents))
    assert_same(again, pipe.generate(SMALL))
    step = drawing.step()
    np.testing.assert_array_equal(drawing.latents, step.latents)


def test_cancelled_drawing_has_its_steps_and_no_pictures(pipe: Pipeline) -> None:
    drawing = pipe.start(SMALL)
    step = drawing.step()
    drawing.cancel()
    result = drawing.finish()
    assert (drawing.done, result.images, result.steps) == (True, [], (step,))
    with pytest.raises(RequestError, match="this drawing has no step left: start another"):
        drawing.step()


@pytest.mark.parametrize("failure", [BackendError("out of memory"), KeyboardInterrupt()], ids=["failed", "interrupted"])
def test_step_that_fails_cancels_the_drawing(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """Taking it again drew another picture with TaylorSeer: the branch before had counted the step already."""
    drawing = pipe.start(REQUESTS["taylorseer"])
    step = drawing.step()
    with monkeypatch.context() as patch, pytest.raises(type(failure)):
        patch.setattr(pipe.components, "predict_velocity", Mock(side_effect=failure))
        drawing.step()
    assert drawing.done and drawing.finish().images == [] and drawing.finish().steps == (step,)
    with pytest.raises(RequestError, match="this drawing has no step left"):
        drawing.step()


def test_cancelling_after_the_last_step_keeps_the_pictures(pipe: Pipeline) -> None:
    assert len(pipe.generate(SMALL, lambda step: step.index < 2).images) == 1


def test_arrays_that_were_handed_out_do_not_change_the_drawing(pipe: Pipeline) -> None:
    """They were the drawing's own: a caller that scaled `step.latents` for a preview drew another picture."""

    def spoil(step: Step) -> None:
        step.latents[:] = step.estimate[:] = 7

    drawing = pipe.start(SMALL)
    drawing.latents[:] = 7
    result = drawing.finish(spoil)
    drawing.latents[:] = 7
    assert result.latents.tobytes() == pipe.generate(SMALL).latents.tobytes()
    assert [image.tobytes() for image in result.images] == [image.tobytes() for image in pipe.generate(SMALL).images]


@pytest.mark.parametrize("answer", [False, np.False_])
def test_on_step_that_returns_false_of_any_kind_stops(pipe: Pipeline, answer: object) -> None:
    """numpy's went on: a comparison of arrays gives that."""
    assert len(pipe.generate(SMALL, lambda step: answer).steps) == 1


@pytest.mark.parametrize("answer", [None, 0, True, np.True_, "", np.zeros(2)], ids=repr)
def test_on_step_that_returns_anything_else_goes_on(pipe: Pipeline, answer: object) -> None:
    assert len(pipe.generate(SMALL, lambda step: answer).steps) == 3


def test_on_step_that_is_no_function_is_refused_before_anything_runs(bundles: dict[str, Path]) -> None:
    backend = FakeBackend()
    with pytest.raises(RequestError, match="on_step=3 is not a function"):
        Pipeline(Bundle.open(bundles["A"]), backend).generate(SMALL, 3)  # type: ignore[arg-type]
    assert backend.opened == []


def test_finish_with_anything_but_a_function_is_refused_and_takes_no_step(pipe: Pipeline) -> None:
    drawing = pipe.start(SMALL)
    with pytest.raises(RequestError, match="on_step=3 is not a function"):
        drawing.finish(3)  # type: ignore[arg-type]
    assert not drawing.done and len(drawing.finish().steps) == 3


def test_drawing_after_the_end_of_a_with_block_says_so(bundles: dict[str, Path]) -> None:
    """The components were opened again without a word, and never closed."""
    with load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        drawing = pipeline.start(SMALL)
    for use in (drawing.step, lambda: pipeline.generate(SMALL), lambda: pipeline.encode_prompt("another")):
        with pytest.raises(RequestError, match="this pipeline was closed at the end of its `with` block: load the bundle again"):
            use()


def test_overflow_in_a_step_is_reported_without_warnings(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = np.full((1, 16, 4, 6), 3e38, np.float32)
    monkeypatch.setattr(pipe.components, "predict_velocity", lambda *words: -huge)
    noise = np.full((1, 16, 4, 6), -3e38, np.float32)
    drawing = pipe.start(dataclasses.replace(SMALL, latents=noise, text_guidance=1.0, steps=1))
    with pytest.raises(BackendError, match="step 0 gave values that are not finite"):
        drawing.step()


@pytest.mark.parametrize("request_", [None, "a cat", {"prompt": "a cat"}], ids=["none", "text", "dictionary"])
def test_drawing_of_anything_but_a_request_is_refused(pipe: Pipeline, request_: object) -> None:
    with pytest.raises(RequestError, match="request must be a Request, not "):
        pipe.start(request_)  # type: ignore[arg-type]


def test_cancelling_one_drawing_leaves_another_as_it_is(pipe: Pipeline) -> None:
    kept, dropped = pipe.start(SMALL), pipe.start(REQUESTS["edit"])
    kept.step()
    dropped.step()
    dropped.cancel()
    assert_same(kept.finish(), pipe.generate(SMALL))


def test_drawing_goes_on_after_the_pipeline_was_closed(pipe: Pipeline) -> None:
    """Its components are opened anew."""
    drawing = pipe.start(SMALL)
    drawing.step()
    pipe.close()
    assert_same(drawing.finish(), pipe.generate(SMALL))


@pytest.mark.parametrize("name", ["text", "edit", "dpm", "taylorseer"])
def test_estimate_is_where_a_straight_step_to_the_end_would_lead(pipe: Pipeline, name: str) -> None:
    drawing: Drawing = pipe.start(REQUESTS[name])
    steps, before = [], []
    while not drawing.done:
        before.append(drawing.latents)
        steps.append(drawing.step())
    times = [step.timestep for step in steps] + [1.0]
    for number, (step, latents) in enumerate(zip(steps, before, strict=True)):
        assert step.estimate.shape == step.latents.shape and step.estimate.dtype == np.float32
        if name != "dpm":  # Euler: x + (t' - t) v
            share = (times[number + 1] - times[number]) / (1 - times[number])
            np.testing.assert_allclose(step.latents, latents + share * (step.estimate - latents), rtol=0, atol=1e-5)
    np.testing.assert_allclose(steps[-1].estimate, steps[-1].latents, rtol=0, atol=1e-5)


def test_order_that_the_bundle_does_not_blend_is_refused_before_anything_runs(bundles: dict[str, Path]) -> None:
    """It once failed in the middle of a drawing."""
    backend = FakeBackend()
    pipeline = Pipeline(Bundle.open(bundles["A"]), backend)
    with pytest.raises(RequestError, match="TaylorSeer order=5 is too high for this bundle; it allows 0 to 4"):
        pipeline.start(Request(prompt="a cat", cache=TaylorSeer(order=5)))
    assert backend.opened == []


@pytest.mark.parametrize("order", [0, 4])
def test_order_that_the_bundle_blends_is_drawn(pipe: Pipeline, order: int) -> None:
    request = Request(prompt="a cat", height_px=32, width_px=32, steps=14, text_guidance=1.0, cache=TaylorSeer(order=order))
    assert len(pipe.generate(request).images) == 1


def test_step_from_another_thread_meanwhile_is_refused_and_the_drawing_is_whole(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that stepped one drawing took a step too many: the result had no pictures."""
    begun, goes_on, predict = Event(), Event(), pipe.components.predict_velocity

    def wait(*words: Any) -> Any:
        begun.set()
        assert goes_on.wait(30)
        return predict(*words)

    drawing = pipe.start(SMALL)
    monkeypatch.setattr(pipe.components, "predict_velocity", wait)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(drawing.finish)
        assert begun.wait(30)
        try:
            for use in (drawing.step, drawing.finish):
                with pytest.raises(RequestError, match="this drawing is taking a step already: let one thread step it"):
                    use()
        finally:
            goes_on.set()
        assert_same(result.result(60), pipe.generate(SMALL))
