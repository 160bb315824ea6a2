"""The pipeline beyond the recorded drawings: what it shares, spares, accepts and refuses."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omnigen2_rt import BackendError, BundleError, Request, RequestError, TaylorSeer, TeaCache, load
from omnigen2_rt.reference.weights import load_transformer
from omnigen2_rt.runtime.autoencoder import encode_image
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.images.pixels import Size
from omnigen2_rt.runtime.pipeline import Pipeline
from tests.exporting import GOLDENS
from tests.pictures import CAT, CUP, KINDS, over_white
from tests.rounding_backend import add_rounding_backend

SMALL: dict[str, Any] = {"prompt": "a cat", "height_px": 32, "width_px": 48, "steps": 3}
ONE_BRANCH: dict[str, Any] = {**SMALL, "text_guidance": 1.0}


@pytest.fixture(scope="module")
def pipe(bundles: dict[str, Path]) -> Iterator[Pipeline]:
    with load(bundles["A"], precision="fp32", threads=1) as pipeline:
        yield pipeline


@pytest.fixture
def runs(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often each component runs."""
    counts: Counter[str] = Counter()
    sessions = pipe.components.sessions
    original = sessions.run

    def counted(component: str, feeds: Any) -> Any:
        counts[component] += 1
        return original(component, feeds)

    monkeypatch.setattr(sessions, "run", counted)
    return counts


def picture(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 7 % 256, columns * 5 % 256, (rows + columns) * 3 % 256], -1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_shared_tokens_give_the_velocity_of_each_branch_alone(pipe: Pipeline) -> None:
    """Branches of other text lengths share image and reference tokens; the reference computes each with its own positions."""
    request = Request(**{**SMALL, "steps": 1}, negative_prompt="a much longer text than that", images=(picture(),),
                      image_guidance=2.0, text_guidance=3.0)  # fmt: skip
    result = pipe.generate(request)
    network = load_transformer(GOLDENS / "A" / "checkpoint")
    noise = torch.from_numpy(pipe.start(request).latents)
    reference = torch.from_numpy(encode_image(pipe.components, picture(), Size(48, 32)))
    cond, negative = (torch.from_numpy(pipe.encode_prompt(t))[None] for t in (request.prompt, request.negative_prompt))
    time = torch.tensor([0.0])
    with torch.no_grad():
        full = network(noise, time, cond, [reference])
        ref = network(noise, time, negative, [reference])
        uncond = network(noise, time, negative)
    wanted = noise + uncond + 2.0 * (ref - uncond) + 3.0 * (full - ref)
    # Values reach 5, and guidance takes five times a branch's velocity: 7e-6 is what float32 leaves of their difference here.
    np.testing.assert_allclose(result.latents, wanted.numpy(), atol=2e-5, rtol=0)


def test_prompt_that_was_just_encoded_is_not_encoded_again(pipe: Pipeline, runs: Counter[str]) -> None:
    for _ in range(2):
        pipe.generate(Request(**{**SMALL, "prompt": "a new one", "steps": 1}))
    assert runs["language_model"] <= 2  # the prompt, and the empty one unless a test before asked for it
    before = runs["language_model"]
    pipe.encode_prompt("a new one")
    assert runs["language_model"] == before


def test_steps_share_what_does_not_depend_on_branch_or_step(pipe: Pipeline, runs: Counter[str]) -> None:
    pipe.generate(Request(**SMALL, images=(picture(), picture()), image_guidance=2.0))
    counted = {name: runs[name] for name in ("transformer", "latent_embedder", "reference_embedder", "context_refiner")}
    assert counted == {"transformer": 9, "latent_embedder": 3, "reference_embedder": 6, "context_refiner": 3}
    assert (runs["vae_encoder"], runs["vae_decoder"]) == (2, 1)


def test_taylorseer_in_predicted_steps_runs_neither_transformer_nor_embedders(pipe: Pipeline, runs: Counter[str]) -> None:
    request = Request(**{**ONE_BRANCH, "steps": 11}, images=(picture(),), cache=TaylorSeer())
    result = pipe.generate(request)
    computed = sum(step.computed["cond"] for step in result.steps)
    assert 0 < computed < 11
    assert {runs[name] for name in ("transformer", "latent_embedder", "reference_embedder")} == {computed}


def test_teacache_with_a_reference_skips_the_transformer(pipe: Pipeline, runs: Counter[str]) -> None:
    request = Request(**{**ONE_BRANCH, "steps": 6}, images=(picture(),), cache=TeaCache(threshold=10.0))
    result = pipe.generate(request)
    computed = [step.computed["cond"] for step in result.steps]
    assert computed[0] and computed[-1] and not all(computed) and runs["transformer"] == sum(computed)


@pytest.mark.parametrize(
    ("precision", "streams", "tolerance"),
    [("fp32", False, 0), ("fp16", False, 0), ("bf16", False, 0), ("fp32", True, 1e-5), ("fp16", True, 2e-2)],
)
def test_memory_limit_closes_components_and_changes_nothing(
    precision: str, streams: bool, tolerance: float, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Components that are only closed change not a bit. Where a component's weights are streamed too, the engine fuses otherwise:
    in fp16 it then rounds in other places, and is as far from fp32 as it was (1e-2 both, of values up to 3).

    bf16 on an engine that rounds like a GPU: ONNX Runtime has no kernels for it on a CPU."""
    backend = add_rounding_backend(monkeypatch) if precision == "bf16" else "ort-cpu"
    request = Request(**{**SMALL, "steps": 2}, images=(picture(),))
    graphs = Bundle.open(bundles["A"]).manifest.graphs
    largest = max(graph.resident_bytes for graph in graphs if graph.precision == precision)
    drawn = []
    for most in (1 if streams else largest, None):
        with load(bundles["A"], backend=backend, precision=precision, threads=1, memory_limit_bytes=most) as pipeline:
            drawn.append((pipeline.generate(request).latents, len(pipeline.components.sessions.openings)))
    (limited, often), (free, once) = drawn
    assert often > once
    np.testing.assert_allclose(limited, free, atol=tolerance, rtol=0)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2"])
def test_memory_limit_that_is_no_count_is_refused(value: Any, bundles: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match="is not a whole number of 1 or more, or None"):
        load(bundles["A"], memory_limit_bytes=value)


def test_load_without_a_shipped_model_asks_for_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnigen2_rt.runtime.pipeline.NANO", tmp_path)
    with pytest.raises(BundleError, match="give the folder of a bundle"):
        load()


def test_six_references_are_refused(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="6 images were given; this model takes at most 5"):
        pipe.generate(Request(**SMALL, images=(picture(),) * 6))


def test_latents_of_another_shape_are_refused(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match=r"latents has shape \(1, 16, 4, 4\); a drawing of this size needs \(1, 16, 4, 6\)"):
        pipe.generate(Request(**SMALL, latents=np.zeros((1, 16, 4, 4), np.float32)))


def test_weights_that_are_not_finite_give_one_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    from omnigen2_rt.runtime.files.safetensors_header import tensor_locations

    bundle = Path(shutil.copytree(bundles["A"], tmp_path / "bundle"))
    place = tensor_locations(bundle / "transformer")["norm_out.linear_2.bias"]
    with place.path.open("r+b") as file:
        file.seek(place.offset)
        file.write(b"\xff" * place.nbytes)
    with pytest.raises(BackendError, match=r"step 0 gave values that are not finite in fp32 on \S+: try precision fp32"):
        load(bundle, precision="fp32", threads=1).generate(Request(**ONE_BRANCH))


def test_on_step_that_returns_false_stops_without_pictures(pipe: Pipeline) -> None:
    result = pipe.generate(Request(**ONE_BRANCH), on_step=lambda step: step.index < 1)
    assert (len(result.steps), result.images) == (2, [])
    np.testing.assert_array_equal(result.latents, result.steps[-1].latents)


def test_seed_gives_the_same_picture_and_another_seed_another(pipe: Pipeline) -> None:
    first, second, other = (pipe.generate(Request(**ONE_BRANCH, seed=seed)).latents for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.1


def test_images_per_prompt_are_drawn_together_as_alone(pipe: Pipeline) -> None:
    pair = pipe.generate(Request(**SMALL, images_per_prompt=2))
    noise = pipe.start(pair.request).latents
    alone = pipe.generate(Request(**SMALL, latents=noise[1:]))
    assert len(pair.images) == 2
    np.testing.assert_allclose(pair.latents[1:], alone.latents, atol=2e-5)


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_reference_of_any_kind_of_file_is_drawn_from_as_what_it_shows(
    name: str, kind: Any, pipe: Pipeline, tmp_path: Path
) -> None:
    make, read = kind
    make(tmp_path / name)
    shown = read(tmp_path / name)
    from_file, from_pixels = (
        pipe.generate(Request(prompt="in autumn", images=(image,), steps=1, image_guidance=2.0))
        for image in (tmp_path / name, np.asarray(shown))
    )
    assert from_file.images[0].size == tuple(side // 16 * 16 for side in shown.size)
    np.testing.assert_allclose(from_file.latents, from_pixels.latents, atol=0.1 if read is over_white else 0)  # a grey level


def test_photographs_as_references_are_seen(pipe: Pipeline) -> None:
    """Larger than they may be read, the second turned by its EXIF tag; each counts, in its place."""
    settings: dict[str, Any] = {"prompt": "the cat beside the cup", "steps": 1, "height_px": 64, "width_px": 96,
                                "image_guidance": 2.0, "max_input_side_px": 256}  # fmt: skip
    settings["align_size"] = True
    drawn = [pipe.generate(Request(**settings, images=images)) for images in ((CAT, CUP), (CUP, CAT), (CAT,), (CUP,))]
    assert [result.images[0].size for result in drawn] == [(96, 64), (96, 64), (256, 160), (256, 160)]
    for one, other in ((drawn[0], drawn[1]), (drawn[2], drawn[3])):
        assert np.abs(one.latents - other.latents).max() > 1e-2


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (64, 48)),
        ({"height_px": 32, "width_px": 80}, (80, 32)),
        ({"height_px": 32, "width_px": 80, "align_size": False}, (80, 32)),
        ({"height_px": 32, "width_px": 80, "align_size": True}, (64, 48)),
    ],
)
def test_size_that_is_given_counts_beside_one_image(fields: dict[str, Any], size: tuple[int, int], pipe: Pipeline) -> None:
    """It was ignored without a word: the picture took the image's size, as the original's does."""
    request = Request(prompt="in autumn", images=picture(64, 48), steps=1, text_guidance=1.0, **fields)
    assert pipe.generate(request).images[0].size == size


def test_prompt_that_is_cut_is_counted_in_the_result(pipe: Pipeline) -> None:
    """Whatever lay beyond the limit was left out without a word."""
    request = Request(**{**SMALL, "prompt": "one two three four", "steps": 1}, negative_prompt="five six")
    assert pipe.generate(request).cut_tokens == {}
    tokens = {text: len(pipe.prompt_encoder.token_ids(text)) for text in (request.prompt, request.negative_prompt)}
    cut = pipe.generate(dataclasses.replace(request, max_prompt_tokens=3))
    assert cut.cut_tokens == {"prompt": tokens[request.prompt] - 3, "negative_prompt": tokens[request.negative_prompt] - 3}
    only_prompt = pipe.generate(dataclasses.replace(request, max_prompt_tokens=3, text_guidance=1.0))
    assert list(only_prompt.cut_tokens) == ["prompt"]


def test_picture_delivered_in_bands_equals_the_picture_resized_at_once(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(prompt="x", width_px=101, height_px=67, steps=1, text_guidance=1.0, images_per_prompt=2)
    at_once = [image.tobytes() for image in pipe.generate(request).images]
    monkeypatch.setattr("omnigen2_rt.runtime.images.pixels._BAND_PIXELS", 101 * 7)
    assert [image.tobytes() for image in pipe.generate(request).images] == at_once


def test_delivered_size_of_the_models_own_is_bounded(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match=r"pictures of .* px would hold \d+ pixels; a drawing holds at most 268435456"):
        pipe.start(Request(prompt="x", width_px=65_535, images_per_prompt=1000))


def test_too_many_references_are_refused_unread(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="1000 images were given; this model takes at most 5"):
        pipe.start(Request(prompt="x", images=["/nowhere.png"] * 1000))


@pytest.mark.parametrize("prompt", ["", "一只红色的猫坐在桌子上", "🐈‍⬛🎨", "a very long story " * 400, "<|im_end|>"])
def test_prompt_of_any_kind_is_drawn(prompt: str, pipe: Pipeline) -> None:
    """Each is told from the others, and what is beyond the limit is cut off."""
    result = pipe.generate(Request(**{**ONE_BRANCH, "prompt": prompt, "steps": 1}))
    assert result.images[0].size == (48, 32)
    assert len(pipe.prompt_encoder.token_ids(prompt, result.request.max_prompt_tokens)) <= 1024
    other = pipe.generate(Request(**{**ONE_BRANCH, "prompt": f"x{prompt}", "steps": 1}))
    assert np.abs(result.latents - other.latents).max() > 1e-4


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 31), (100, 33), (16, 160)])
def test_unusual_size_is_delivered_exactly(width: int, height: int, pipe: Pipeline) -> None:
    result = pipe.generate(Request(prompt="x", width_px=width, height_px=height, steps=1, text_guidance=1.0))
    assert result.images[0].size == (width, height)
