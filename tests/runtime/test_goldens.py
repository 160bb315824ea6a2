"""Whole drawings against the original's recorded ones, through the exported graphs and the torch-free runtime."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt import Request, TaylorSeer, TeaCache, load
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.lora_bundle import merged_bundle
from omnigen2_rt.exporter.weights.lora import Lora
from omnigen2_rt.runtime.noise import gaussian_noise
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.runtime.request import Result
from tests.runtime.goldens import CONFIGS, CPU_BACKENDS, GOLDENS, arguments, arrays, calls_by_step, recordings

LATENTS = 1e-3
HIDDEN = 3e-4

BATCHED = [("A", "pipe_t2i_batch2"), ("B", "pipe_t2i_batch2"), ("A", "pipe_batch_mixed"), ("B", "pipe_batch_mixed")]
DRAWINGS = [case for case in recordings("pipe_") if case not in BATCHED and case[1] != "pipe_lora"]
NAMES = {
    "num_inference_steps": "steps",
    "text_guidance_scale": "text_guidance",
    "image_guidance_scale": "image_guidance",
    "max_sequence_length": "max_prompt_tokens",
    "max_input_image_side_length": "max_input_side_px",
    "num_images_per_prompt": "images_per_prompt",
    "height": "height_px",
    "width": "width_px",
    "align_res": "align_size",
}
UNUSED = ("output_type", "return_dict")


@pytest.fixture(scope="session", params=CPU_BACKENDS)
def pipelines(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> dict[str, Pipeline]:
    return {name: load(bundle, backend=request.param, precision="fp32", threads=1) for name, bundle in bundles.items()}


def request_of(config: str, name: str, **changes: Any) -> Request:
    """The recorded call as a Request."""
    args, recorded = arguments(config, name), arrays(config, name)
    fields = {NAMES.get(key, key): value for key, value in args["call_kwargs"].items() if key not in UNUSED}
    fields["images"] = [GOLDENS / config / "golden" / file for file in args["images"] or () if isinstance(file, str)]
    fields["scheduler"] = args["scheduler"]
    fields["latents"] = recorded.get("latents")
    fields.setdefault("align_size", True)  # the original takes the image's size also where one is given
    if args["generator"]:
        fields["seed"] = int(args["generator"].split("manual_seed(")[1].split(")")[0])
    if args["teacache_rel_l1_thresh"]:
        fields["cache"] = TeaCache(threshold=args["teacache_rel_l1_thresh"])
    if args["taylorseer"]:
        fields["cache"] = TaylorSeer()
    return Request(**{**fields, **changes})


def draw(pipeline: Pipeline, config: str, name: str) -> Result:
    """The recorded drawing by our pipeline; where the original sampled the VAE's distribution, with its noise."""
    args = arguments(config, name)
    noise = [recorded for key, recorded in arrays(config, name).items() if key.startswith("vae_noise")]
    if args["vae_encode"] == "global":  # drawn from the global generator, whose seed the recording names
        noise = [gaussian_noise((1, 16, 6, 8), int(args["generator"].split("torch.manual_seed(")[1].split(")")[0]))]
    backend = Sampling(pipeline, noise) if noise else pipeline.backend
    return Pipeline(pipeline.bundle, backend).generate(request_of(config, name))


class Sampling:
    """A backend whose VAE encoder gives a sample with recorded noise where the real one gives the mean."""

    def __init__(self, pipeline: Pipeline, noise: list[np.ndarray]) -> None:
        self._backend = pipeline.backend
        self._noise = iter(noise)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def open(self, component: str) -> Any:
        session = self._backend.open(component)
        return self if component == "vae_encoder" and not setattr(self, "_session", session) else session

    def run(self, feeds: Any) -> Any:
        outputs = self._session.run(feeds)
        mean, logvar = (self._backend.to_host(outputs[key]) for key in ("mean", "logvar"))
        return {"mean": self._backend.to_device(mean + np.exp(0.5 * logvar) * next(self._noise))}


def assert_latents_match(result: Result, config: str, name: str) -> None:
    recorded = arrays(config, name)
    for step, expected in zip(recorded["step_index"], recorded["latents_steps"], strict=True):
        np.testing.assert_allclose(result.steps[step].latents, expected, atol=LATENTS, rtol=0)


@cache
def _result(pipeline: Pipeline, config: str, name: str) -> Result:
    return draw(pipeline, config, name)


@pytest.mark.parametrize(("config", "name"), DRAWINGS)
def test_drawing_equals_the_original(pipelines: dict[str, Pipeline], config: str, name: str) -> None:
    result = _result(pipelines[config], config, name)
    assert_latents_match(result, config, name)
    np.testing.assert_allclose(
        [step.timestep for step in result.steps], arrays(config, name)["timesteps"], atol=1e-6, rtol=0
    )
    _, height, width, _ = arguments(config, name)["output_shape"]
    assert {image.size for image in result.images} == {(width, height)}
    assert [dict(step.computed) for step in result.steps] == calls_by_step(config, name)


@pytest.mark.parametrize(("config", "name"), [case for case in DRAWINGS if "image_u8" in arrays(*case)])
def test_pictures_equal_the_original_to_a_grey_level(pipelines: dict[str, Pipeline], config: str, name: str) -> None:
    images = _result(pipelines[config], config, name).images
    drawn = np.stack([np.asarray(image, np.int16) for image in images])
    assert np.abs(drawn - arrays(config, name)["image_u8"].astype(np.int16)).max() <= 1


@pytest.mark.parametrize(("config", "name"), [case for case in DRAWINGS if "image_np_tl" in arrays(*case)])
def test_resized_pictures_equal_the_original(pipelines: dict[str, Pipeline], config: str, name: str) -> None:
    image = np.asarray(_result(pipelines[config], config, name).images[0], np.float32) / 255
    recorded = arrays(config, name)
    np.testing.assert_allclose(image[:24, :24], recorded["image_np_tl"][0], atol=1 / 255, rtol=0)
    np.testing.assert_allclose(image[-24:, -24:], recorded["image_np_br"][0], atol=1 / 255, rtol=0)


@pytest.mark.parametrize(("config", "name"), [case for case in DRAWINGS if "decoded_pool8" in arrays(*case)])
def test_decoded_pixels_equal_the_original(pipelines: dict[str, Pipeline], config: str, name: str) -> None:
    pipeline, result = pipelines[config], _result(pipelines[config], config, name)
    vae = pipeline.bundle.manifest.vae
    unscaled = result.latents / np.float32(vae.scaling_factor) + np.float32(vae.shift_factor)
    pixels = pipeline.components.decode_latents(unscaled)
    batch, channels, height, width = pixels.shape
    pooled = pixels.reshape(batch, channels, height // 8, 8, width // 8, 8).mean(axis=(3, 5))
    np.testing.assert_allclose(pooled, arrays(config, name)["decoded_pool8"], atol=LATENTS, rtol=0)


@pytest.mark.parametrize(("config", "name"), BATCHED)
def test_prompts_of_one_call_drawn_one_by_one_equal_the_original(
    pipelines: dict[str, Pipeline], config: str, name: str
) -> None:
    """The original pads two prompts into a batch; we draw each alone, with its own slice of the noise.

    In a mixed batch the whole batch is guided alike, so the prompt without images also runs its "ref" branch;
    that branch then equals "uncond", which is the two-branch formula.
    """
    args, recorded = arguments(config, name), arrays(config, name)
    for index, prompt in enumerate(args["call_kwargs"]["prompt"]):
        images = [GOLDENS / config / "golden" / file for file in (args["images"][index] or ())]
        noise = recorded["latents"][index : index + 1]
        request = request_of(config, name, prompt=prompt, images=images, latents=noise, align_size=False)
        steps = pipelines[config].generate(request).steps
        for step, expected in zip(recorded["step_index"], recorded["latents_steps"], strict=True):
            np.testing.assert_allclose(steps[step].latents[0], expected[index], atol=LATENTS, rtol=0)


@pytest.mark.parametrize("config", [config for config, name in recordings("pipe_lora")])
def test_drawing_with_a_merged_lora_equals_the_original(config: str, tmp_path: Path) -> None:
    lora = Lora(path=GOLDENS / config / "golden" / "inputs" / "lora")
    bundle = tmp_path / "bundle"
    export_bundle(GOLDENS / config / "checkpoint", bundle, precisions=("fp32",), lora=lora)
    with load(bundle, precision="fp32", threads=1) as pipeline:
        assert_latents_match(pipeline.generate(request_of(config, "pipe_lora")), config, "pipe_lora")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("config", [config for config, name in recordings("pipe_lora")])
def test_drawing_with_a_lora_merged_into_the_bundle_equals_the_original(
    bundles: dict[str, Path], config: str, backend: str, tmp_path: Path
) -> None:
    lora = Lora(path=GOLDENS / config / "golden" / "inputs" / "lora")
    merged = merged_bundle(bundles[config], [lora], folder=tmp_path).path
    with load(merged, backend=backend, precision="fp32", threads=1) as pipeline:
        assert_latents_match(pipeline.generate(request_of(config, "pipe_lora")), config, "pipe_lora")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["pipe_t2i", "pipe_edit"])
def test_prompt_states_equal_the_original(pipelines: dict[str, Pipeline], config: str, name: str) -> None:
    recorded, prompt = arrays(config, name), arguments(config, name)["call_kwargs"]["prompt"]
    for text, expected in {prompt: "prompt_embeds", "": "negative_embeds"}.items():
        states = pipelines[config].encode_prompt(text)
        np.testing.assert_allclose(states, recorded[expected][0], atol=HIDDEN, rtol=0)


@pytest.mark.parametrize("config", CONFIGS)
def test_prompt_token_ids_equal_the_original(pipelines: dict[str, Pipeline], config: str) -> None:
    recorded = arrays(config, "mllm")
    prompts = {key: args["prompt"] for key, args in arguments(config, "mllm").items() if key.startswith("t2i")}
    assert len(prompts) == 4
    for key, prompt in prompts.items():
        assert pipelines[config].prompt_encoder.token_ids(prompt) == recorded[f"{key}_ids"][0].tolist()
        np.testing.assert_allclose(
            pipelines[config].encode_prompt(prompt), recorded[f"{key}_hidden"][0], atol=HIDDEN, rtol=0
        )
