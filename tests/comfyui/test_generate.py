"""Drawing and editing in ComfyUI: the pictures are the pipeline's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt import Pipeline, Request, TaylorSeer, TeaCache
from tests.comfyui.prompts import (
    CIRCLE,
    EDIT,
    STEPS,
    bundle,
    draw_and_save,
    drawing,
    drawing_options,
    pixels,
    save,
    saved_pixels,
    show,
)
from tests.comfyui.running import Comfy

GATHER = "put the object from image 1 and the object from image 2 on a white background"


def request(**fields: Any) -> Request:
    """The request of `prompts.drawing`."""
    return Request(**{"prompt": CIRCLE, "steps": STEPS, "text_guidance": 2.5, "image_guidance": 1.5, "seed": 7, **fields})


def test_drawing_equals_the_pipelines_own(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    comfy.run(draw_and_save())
    (drawn,) = saved_pixels(saved, "drawn")
    assert np.array_equal(drawn, pixels(nano.generate(request()).images[0]))


def test_drawing_of_a_batch_gives_every_picture(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    comfy.run(draw_and_save(batch_size=3, width=64, height=96))
    expected = nano.generate(request(images_per_prompt=3, width_px=64, height_px=96)).images
    for drawn, picture in zip(saved_pixels(saved, "drawn"), expected, strict=True):
        assert np.array_equal(drawn, pixels(picture))


def test_edit_of_a_drawing_equals_the_pipelines_own(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    comfy.run({**draw_and_save(), "edit": drawing(EDIT, image_1=["draw", 0]), "save edit": save("edited", "edit")})
    first = nano.generate(request()).images[0]
    (edited,) = saved_pixels(saved, "edited")
    assert np.array_equal(edited, pixels(nano.generate(request(prompt=EDIT, images=(first,))).images[0]))


def test_images_of_a_batch_and_of_sockets_are_taken_in_order(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    """A gap between the sockets doesn't matter, and the order of the pictures does."""
    prompt = {
        **draw_and_save(batch_size=2),
        "other": drawing("a small white star on a green background"),
        "gather": drawing(GATHER, image_2=["other", 0], image_5=["draw", 0]),
        "save gathered": save("gathered", "gather"),
    }
    comfy.run(prompt)
    star = nano.generate(request(prompt="a small white star on a green background")).images
    circles = nano.generate(request(images_per_prompt=2)).images
    both = request(prompt=GATHER, images=(*star, *circles))
    assert np.array_equal(saved_pixels(saved, "gathered")[0], pixels(nano.generate(both).images[0]))
    other = request(prompt=GATHER, images=(*circles, *star))
    assert not np.array_equal(saved_pixels(saved, "gathered")[0], pixels(nano.generate(other).images[0]))


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"cfg_end": 0.5, "scheduler": "dpmsolver++"}, {"cfg_range": (0.0, 0.5), "scheduler": "dpmsolver++"}),
        ({"cache": "teacache", "teacache_threshold": 0.5}, {"cache": TeaCache(threshold=0.5)}),
        (
            {"cache": "taylorseer", "taylorseer_warmup_steps": 1, "taylorseer_interval": 2, "taylorseer_order": 1},
            {"cache": TaylorSeer(warmup_steps=1, interval=2, order=1)},
        ),
        ({"max_pixels": 64 * 64}, {"max_pixels": 64 * 64}),
    ],
    ids=["guidance and scheduler", "teacache", "taylorseer", "max_pixels"],
)
def test_drawing_options_reach_the_drawing(
    comfy: Comfy, nano: Pipeline, saved: Path, options: dict[str, Any], fields: dict[str, Any]
) -> None:
    prompt = {**draw_and_save(drawing_options=["options", 0]), "options": drawing_options(**options)}
    comfy.run(prompt)
    (drawn,) = saved_pixels(saved, "drawn")
    assert np.array_equal(drawn, pixels(nano.generate(request(**fields)).images[0]))
    assert not np.array_equal(drawn, pixels(nano.generate(request()).images[0]))


def test_negative_prompt_and_guidance_reach_the_drawing(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    comfy.run(draw_and_save(negative_prompt="a small star", text_guidance=3.0))
    expected = nano.generate(request(negative_prompt="a small star", text_guidance=3.0)).images[0]
    assert np.array_equal(saved_pixels(saved, "drawn")[0], pixels(expected))


def test_details_say_how_it_was_drawn_and_what_was_not_read(comfy: Comfy, nano: Pipeline) -> None:
    options = {"options": drawing_options(max_prompt_tokens=5), "show": show("draw", 1)}
    (text,) = comfy.run({**draw_and_save(drawing_options=["options", 0]), **options}).outputs["show"]["text"]
    cut = nano.generate(request(max_prompt_tokens=5)).cut_tokens["prompt"]
    assert text.startswith("128×128, 4 steps, seed 7, fp32 on ort-cpu, ")
    assert f" s; the last {cut} tokens of the prompt were not read: raise max_prompt_tokens" in text


def test_progress_has_an_event_and_a_preview_for_each_step(comfy: Comfy) -> None:
    run = comfy.run(draw_and_save())
    assert run.progress_of("draw") == [(step, STEPS) for step in range(1, STEPS + 1)]
    previews = run.previews_of("draw")
    assert [(kind, picture.size, most) for kind, picture, most in previews] == [("JPEG", (8, 8), 512)] * STEPS
    assert np.asarray(previews[-1][1]).std() > 10, "a preview shows something"


def test_interrupt_takes_effect_after_the_step_that_is_under_way(comfy: Comfy, saved: Path) -> None:
    seen: list[float] = []

    def interrupt_at_step_3(event: Any, data: Any) -> None:
        if event == "progress" and data["value"] == 3:
            seen.append(data["value"])
            comfy.interrupt()

    run = comfy.run(draw_and_save(steps=200), on_event=interrupt_at_step_3)
    assert seen and run.is_interrupted
    assert run.progress_of("draw") == [(1, 200), (2, 200), (3, 200)]
    assert not saved_pixels(saved, "drawn")


def test_drawing_after_an_interrupt_equals_one_before(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    comfy.run(draw_and_save(steps=50), on_event=lambda event, data: event == "progress" and comfy.interrupt())
    assert not comfy.run(draw_and_save()).is_interrupted
    assert np.array_equal(saved_pixels(saved, "drawn")[0], pixels(nano.generate(request()).images[0]))


def test_drawing_that_did_not_change_is_taken_from_the_cache(comfy: Comfy) -> None:
    first, second, third = comfy.run(draw_and_save()), comfy.run(draw_and_save()), comfy.run(draw_and_save(seed=8))
    assert "draw" in first.ran and "load" in first.ran
    assert "draw" not in second.ran and "load" not in second.ran
    assert "draw" in third.ran and "load" not in third.ran


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "width_px=8 is below the smallest size, 16"),
        ({"width": 65528, "height": 65528}, "a picture of 65528×65528 px would hold"),
        ({"image_1": ["six", 0]}, "6 images were given; this model takes at most 5"),
    ],
)
def test_error_is_one_line_that_says_what_to_do(comfy: Comfy, changes: dict[str, Any], message: str) -> None:
    prompt = {**draw_and_save(**changes), "six": drawing(batch_size=6, steps=1, width=32, height=32)}
    error = comfy.run(prompt).error
    assert error.startswith(message) and len(error.strip().splitlines()) == 1


def test_unknown_choice_is_refused(comfy: Comfy) -> None:
    """ComfyUI 0.3.64 doesn't compare the choices of V3 nodes with their lists."""
    prompt = {**draw_and_save(drawing_options=["options", 0]), "options": drawing_options(cache="tea")}
    assert comfy.run(prompt).error.startswith("cache 'tea' is unknown; choose none, teacache or taylorseer")
    assert "backend='fast' is not one of auto" in comfy.run(draw_and_save(bundle(backend="fast"))).error


def test_values_out_of_range_are_refused_before_anything_runs(comfy: Comfy) -> None:
    problems = comfy.problems(draw_and_save(steps=0))
    assert problems["draw"]["errors"][0]["type"] == "value_smaller_than_min"
    assert comfy.problems(draw_and_save(seed=2**64))["draw"]["errors"][0]["type"] == "value_bigger_than_max"
    assert not comfy.problems(draw_and_save(seed=2**64 - 1))
