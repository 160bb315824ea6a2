"""The pipeline beyond the recorded drawings: what it shares, spares, accepts and refuses."""

from __future__ import annotations

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
from omnigen2_rt.runtime.pipeline import Pipeline
from tests.exporting import GOLDENS

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
    original = pipe.sessions.run

    def counted(component: str, feeds: Any) -> Any:
        counts[component] += 1
        return original(component, feeds)

    monkeypatch.setattr(pipe.sessions, "run", counted)
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
    noise = torch.from_numpy(pipe._noise(request, pipe._sizes(request, [picture()])[0]))
    reference = torch.from_numpy(pipe._encode_image(picture(), request))
    cond, negative = (torch.from_numpy(pipe.encode_prompt(t))[None] for t in (request.prompt, request.negative_prompt))
    time = torch.tensor([0.0])
    with torch.no_grad():
        full = network(noise, time, cond, [reference])
        ref = network(noise, time, negative, [reference])
        uncond = network(noise, time, negative)
    wanted = noise + uncond + 2.0 * (ref - uncond) + 3.0 * (full - ref)
    np.testing.assert_allclose(result.latents, wanted.numpy(), atol=5e-5)


def test_prompt_that_was_just_encoded_is_not_encoded_again(pipe: Pipeline) -> None:
    before = pipe._prompts.runs
    for _ in range(2):
        pipe.generate(Request(**{**SMALL, "prompt": "a new one", "steps": 1}))
    assert pipe._prompts.runs - before <= 2  # the prompt, and the empty one unless a test before asked for it
    again = pipe._prompts.runs
    pipe.encode_prompt("a new one")
    assert pipe._prompts.runs == again


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


@pytest.mark.parametrize("limit", [1, 400_000])
def test_memory_limit_closes_components_and_changes_nothing(limit: int, pipe: Pipeline, bundles: dict[str, Path]) -> None:
    request = Request(**{**SMALL, "steps": 1}, images=(picture(),))
    with load(bundles["A"], precision="fp32", threads=1, memory_limit_bytes=limit) as limited:
        result = limited.generate(request)
        assert len(limited.sessions.open_components) < len(pipe.sessions.open_components) or limit > 1
    np.testing.assert_allclose(result.latents, pipe.generate(request).latents, atol=1e-5)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2"])
def test_memory_limit_that_is_no_count_is_refused(value: Any, bundles: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match="is not a whole number of 1 or more, or None"):
        load(bundles["A"], memory_limit_bytes=value)


def test_load_without_a_shipped_model_asks_for_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="give the folder of a bundle"):
        load()


def test_six_references_are_refused(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="6 images were given; this model takes at most 5"):
        pipe.generate(Request(**SMALL, images=(picture(),) * 6))


def test_latents_of_another_shape_are_refused(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match=r"latents has shape \(1, 16, 4, 4\); a drawing of this size needs \(1, 16, 4, 6\)"):
        pipe.generate(Request(**SMALL, latents=np.zeros((1, 16, 4, 4), np.float32)))


def test_weights_that_are_not_finite_give_one_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    from omnigen2_rt.reference.safetensors_header import tensor_locations

    bundle = Path(shutil.copytree(bundles["A"], tmp_path / "bundle"))
    place = tensor_locations(bundle / "transformer")["norm_out.linear_2.bias"]
    with place.path.open("r+b") as file:
        file.seek(place.offset)
        file.write(b"\xff" * place.nbytes)
    with pytest.raises(BackendError, match="step 0 gave values that are not finite in fp32 on ort-cpu: try precision fp32"):
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
    noise = pipe._noise(pair.request, pipe._sizes(pair.request, [])[0])
    alone = pipe.generate(Request(**SMALL, latents=noise[1:]))
    assert len(pair.images) == 2
    np.testing.assert_allclose(pair.latents[1:], alone.latents, atol=2e-5)


def animated(path: Path) -> Path:
    picture().save(path, save_all=True, append_images=[picture().rotate(180)])
    return path


def rotated(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)
    return path


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def wide_grey() -> Image.Image:
    return Image.fromarray((np.mgrid[0:32, 0:48][1] * 1300).astype(np.uint16))


def see_through() -> Image.Image:
    image = picture(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


FILES = {
    "animated.gif": (animated, (48, 32)),
    "cmyk.jpg": (lambda path: saved(path, picture(mode="CMYK")), (48, 32)),
    "wide.png": (lambda path: saved(path, wide_grey()), (48, 32)),
    "rotated.jpg": (rotated, (32, 48)),
    "alpha.png": (lambda path: saved(path, see_through()), (48, 32)),
    "odd.webp": (lambda path: saved(path, picture(51, 39)), (48, 32)),
}


@pytest.mark.parametrize(("name", "made"), FILES.items(), ids=FILES)
def test_reference_of_any_common_kind_is_drawn_from(name: str, made: Any, pipe: Pipeline, tmp_path: Path) -> None:
    make, size = made
    result = pipe.generate(Request(**{**ONE_BRANCH, "steps": 1}, images=(make(tmp_path / name),)))
    assert result.images[0].size == size and np.isfinite(result.latents).all()


@pytest.mark.parametrize("prompt", ["", "一只红色的猫坐在桌子上", "🐈‍⬛🎨", "a very long story " * 400, "<|im_end|>"])
def test_prompt_of_any_kind_is_drawn(prompt: str, pipe: Pipeline) -> None:
    result = pipe.generate(Request(**{**ONE_BRANCH, "prompt": prompt, "steps": 1}, max_prompt_tokens=128))
    assert result.images[0].size == (48, 32)
    states = pipe._prompt_states(result.request, "cond")
    assert np.isfinite(states).all() and len(states) <= 128


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 31), (100, 33), (16, 160)])
def test_unusual_size_is_delivered_exactly(width: int, height: int, pipe: Pipeline) -> None:
    result = pipe.generate(Request(prompt="x", width_px=width, height_px=height, steps=1, text_guidance=1.0))
    assert result.images[0].size == (width, height)
