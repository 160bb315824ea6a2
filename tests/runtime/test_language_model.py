"""Reading and writing beside transformers' own Qwen2.5-VL, on random small models of several shapes.

The components' forwards stand in for their exported graphs, whose parity the exporter's tests show.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.reference.mllm import MLLM
from omnigen2_rt.reference.weights import load_mllm
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.generation import Chooser, Sampling, Writing, write
from omnigen2_rt.runtime.language_model import Context, LanguageModel, Seen
from omnigen2_rt.runtime.vision import VisionParameters, vision_patches

START, END, IMAGE = 90, 91, 92
PROCESSOR = VisionParameters(
    patch_size=14, temporal_patch_size=2, merge_size=2, min_pixels=56 * 56, max_pixels=12845056,
    image_mean=(0.5, 0.5, 0.5), image_std=(0.25, 0.25, 0.25), rescale_factor=1 / 255, resample=3,
)  # fmt: skip
SHAPES = {
    "small windows": dict(window_size=56, depth=2, vision_heads=2, layers=2, heads=4, kv_heads=2, full=[1]),
    "deep, one kv head": dict(window_size=112, depth=3, vision_heads=4, layers=3, heads=6, kv_heads=1, full=[0, 2]),
}


class TorchSessions:
    """Runs components' forwards on a reference network, as `Sessions.run` runs their graphs."""

    def __init__(self, network: MLLM) -> None:
        self._network = network

    def run(self, component: str, feeds: Any) -> dict[str, np.ndarray]:
        found = next(entry for entry in COMPONENTS if entry.name == component)
        config = self._network.visual.config if component == "vision_encoder" else self._network.language_model.config
        inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in found.inputs(config)]
        with torch.no_grad():
            outputs = found.forward(self._network, *inputs)
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(found.outputs(config), [value.numpy() for value in values], strict=True))


def fresh_pair(shape: dict[str, Any], tmp: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, LanguageModel]:
    torch.manual_seed(0)
    width = shape["heads"] * 8
    text = dict(
        vocab_size=100, hidden_size=width, intermediate_size=56, num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"], rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    )  # fmt: skip
    vision = dict(
        depth=shape["depth"], hidden_size=32, intermediate_size=40, num_heads=shape["vision_heads"],
        out_hidden_size=width, window_size=shape["window_size"], fullatt_block_indexes=shape["full"],
    )  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, vision_start_token_id=START,
        vision_end_token_id=END, video_token_id=93, tie_word_embeddings=True,
    )  # fmt: skip
    oracle = Qwen2_5_VLForConditionalGeneration(config).eval()
    for weight in oracle.parameters():
        weight.data.normal_(0.0, 0.15)
    oracle.save_pretrained(tmp / "mllm")
    network = load_mllm(tmp)
    numbers = network.language_model.config
    manifest = SimpleNamespace(
        mllm=SimpleNamespace(
            layers=numbers.num_hidden_layers, kv_heads=numbers.num_key_value_heads, head_width=numbers.head_width,
            rope_theta=numbers.rope_theta, mrope_section=numbers.mrope_section,
        ),
        chat=SimpleNamespace(image_token_id=IMAGE, max_context_tokens=4000),
        vision=SimpleNamespace(
            processor=PROCESSOR, head_width=network.visual.config.head_width, window_px=shape["window_size"]
        ),
    )  # fmt: skip
    bundle: Any = SimpleNamespace(manifest=manifest, path=tmp)
    sessions: Any = TorchSessions(network)
    backend: Any = SimpleNamespace(to_host=lambda array: array)
    return oracle, LanguageModel(bundle, sessions, backend)


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def prompt(images: int) -> list[int]:
    return [5, 6, 7, *([START, IMAGE, END, 11] * images), 8, 9]


def wanted_tokens(oracle: Any, ids: list[int], images: list[Image.Image]) -> list[int]:
    looked = [vision_patches(image, PROCESSOR) for image in images]
    seen: dict[str, Any] = {}
    if looked:
        seen["pixel_values"] = torch.from_numpy(np.concatenate([patches for patches, _ in looked]))
        seen["image_grid_thw"] = torch.tensor([grid for _, grid in looked])
        seen["mm_token_type_ids"] = (torch.tensor([ids]) == IMAGE).int()
    tokens = torch.tensor([ids])
    made = oracle.generate(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=50, do_sample=False, eos_token_id=None,
        pad_token_id=0, suppress_tokens=[START, END, IMAGE, 93], **seen,
    )  # fmt: skip
    return list(made[0, len(ids) :].tolist())


@pytest.mark.parametrize("sizes", [(), ((28, 28),), ((300, 200), (28, 90), (56, 56), (130, 70))])
@pytest.mark.parametrize("shape", SHAPES)
def test_fifty_greedy_tokens_equal_those_of_transformers(
    shape: str, sizes: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    oracle, model = fresh_pair(SHAPES[shape], tmp_path)
    images = pictures(*sizes)
    seen = [model.look(image) for image in images]
    ids = model.expand(prompt(len(images)), seen)
    hidden, context = model.read(Context(), ids, seen)
    chooser = Chooser(Sampling(), [START, END, IMAGE, 93])
    tokens = list(write(model, Writing(context, []), hidden[-1], chooser, (), 50))
    assert tokens == wanted_tokens(oracle, ids, images)


@pytest.mark.parametrize("size", [(28, 28), (500, 333), (1500, 900)])
def test_vision_features_equal_those_of_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    oracle, model = fresh_pair(SHAPES["small windows"], tmp_path)
    (image,) = pictures(size)
    patches, grid = vision_patches(image, PROCESSOR)
    with torch.no_grad():
        wanted = oracle.model.visual(torch.from_numpy(patches), grid_thw=torch.tensor([grid])).pooler_output
    np.testing.assert_allclose(model.look(image).embeds, wanted.numpy(), rtol=0, atol=1e-4)


def test_more_images_than_tokens_are_refused(tmp_path: Path) -> None:
    _, model = fresh_pair(SHAPES["small windows"], tmp_path)
    seen = [Seen(np.zeros((1, 32), np.float32), (1, 1))] * 2
    with pytest.raises(RequestError, match="holds 1 image tokens for 2 images"):
        model.expand(prompt(1), seen)
