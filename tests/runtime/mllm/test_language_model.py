"""Reading and writing beside transformers' own Qwen2.5-VL: random small models of several shapes, exported and run."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

from omnigen2_rt.runtime.backends.ort import OrtBackend
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.chat.sampling import Sampler, Sampling
from omnigen2_rt.runtime.chat.token_generation import GenerationState, generate_tokens
from omnigen2_rt.runtime.components import Components
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.manifest import ImageProcessorParameters
from omnigen2_rt.runtime.mllm.image_processor import vision_patches
from omnigen2_rt.runtime.mllm.language_model import ImageFeatures, KVCache, LanguageModel, Tokens
from tests.exporting import exported_mllm

START, END, IMAGE = 90, 91, 92
UNSAYABLE = [START, END, IMAGE, 93]
PROCESSOR = ImageProcessorParameters(
    patch_size=14, temporal_patch_size=2, merge_size=2, min_pixels=28 * 28, max_pixels=12845056,
    image_mean=(0.5, 0.5, 0.5), image_std=(0.25, 0.25, 0.25), rescale_factor=1 / 255, resample=3,
)  # fmt: skip
SHAPES = {
    "small windows": dict(window_size=56, depth=2, vision_heads=2, layers=2, heads=4, kv_heads=2, full=[1]),
    "deep, one kv head": dict(window_size=112, depth=3, vision_heads=4, layers=3, heads=6, kv_heads=1, full=[0, 2]),
}


@dataclass(frozen=True)
class Pair:
    """transformers' model and ours, of the same random weights."""

    oracle: Qwen2_5_VLForConditionalGeneration
    model: LanguageModel


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One model of each shape, exported and opened once."""
    shape, folder = SHAPES[request.param], tmp_path_factory.mktemp("mllm")
    oracle = random_oracle(shape)
    oracle.save_pretrained(folder / "mllm")
    numbers, vision, graphs = exported_mllm(folder)
    manifest: Any = SimpleNamespace(
        graphs=graphs,
        mllm=SimpleNamespace(
            hidden_size=numbers.hidden_size,
            layers=numbers.num_hidden_layers, kv_heads=numbers.num_key_value_heads, head_width=numbers.head_width,
            rope_theta=numbers.rope_theta, mrope_section=numbers.mrope_section,
        ),
        chat=SimpleNamespace(image_token_id=IMAGE, max_context_tokens=4000),
        vision=SimpleNamespace(
            processor=PROCESSOR, head_width=vision.head_width, window_px=shape["window_size"]
        ),
    )  # fmt: skip
    bundle = Bundle(folder, manifest)
    backend = OrtBackend(bundle, "ort-cpu", "fp32", threads=1)
    return Pair(oracle, LanguageModel(Components(bundle, backend)))


def random_oracle(shape: dict[str, Any]) -> Qwen2_5_VLForConditionalGeneration:
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
    return oracle


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
        pad_token_id=0, suppress_tokens=UNSAYABLE, **seen,
    )  # fmt: skip
    return list(made[0, len(ids) :].tolist())


def our_tokens(model: LanguageModel, ids: list[int], images: list[Image.Image]) -> list[int]:
    features = [model.encode_image(image) for image in images]
    hidden, cache = model.read(model.expand(ids, features), features)
    return [token for _, token in generate_tokens(model, GenerationState(cache), hidden[-1:], [greedy()], (), 50)]


def greedy() -> Sampler:
    return Sampler(Sampling(), UNSAYABLE)


@pytest.mark.parametrize("sizes", [(), ((28, 28),), ((300, 200), (28, 90), (56, 56), (130, 70))])
def test_fifty_greedy_tokens_equal_those_of_transformers(pair: Pair, sizes: tuple[tuple[int, int], ...]) -> None:
    images = pictures(*sizes)
    ids = prompt(len(images))
    expanded = pair.model.expand(ids, [pair.model.encode_image(image) for image in images])
    assert our_tokens(pair.model, ids, images) == wanted_tokens(pair.oracle, list(expanded.ids), images)


@pytest.mark.parametrize("size", [(28, 28), (500, 333), (1500, 900)])
def test_vision_features_equal_those_of_transformers(pair: Pair, size: tuple[int, int]) -> None:
    (image,) = pictures(size)
    patches, grid = vision_patches(image, PROCESSOR)
    with torch.no_grad():
        wanted = pair.oracle.model.visual(torch.from_numpy(patches), grid_thw=torch.tensor([grid])).pooler_output
    np.testing.assert_allclose(pair.model.encode_image(image).embeds, wanted.numpy(), rtol=0, atol=1e-4)


def test_rows_of_other_lengths_are_written_as_each_alone(pair: Pair) -> None:
    """Greedy, a hot sampler and one with pictures, side by side; the short answers end first."""
    model = pair.model
    images = [[], pictures((60, 90)), [], pictures((28, 28), (120, 30))]
    features = [[model.encode_image(image) for image in row] for row in images]
    texts = [Tokens.text([5]), Tokens.text([9, 8, 7, 6, 5, 4, 3])]
    rows = [texts[0], model.expand(prompt(1), features[1]), texts[1], model.expand(prompt(2), features[3])]
    warm = Sampling(temperature=2.0, top_k=40, seed=3, repetition_penalty=1.1)

    def samplers() -> list[Sampler]:
        return [greedy(), greedy(), Sampler(warm, UNSAYABLE), greedy()]

    read = [model.read(row, shown) for row, shown in zip(rows, features, strict=True)]

    def alone(row: int, stops: tuple[int, ...]) -> list[int]:
        states, cache = read[row]
        tokens = generate_tokens(model, GenerationState(cache), states[-1:], samplers()[row : row + 1], stops, 24)
        return [token for _, token in tokens]

    stops = (alone(2, ())[5],)  # ends the third row before the others
    states, cache = model.extend(KVCache.empty(4), rows, features)
    for together, (expected, _) in zip(states, read, strict=True):
        np.testing.assert_allclose(together, expected, rtol=0, atol=1e-5)
    state = GenerationState(cache)
    list(generate_tokens(model, state, np.stack([row[-1] for row in states]), samplers(), stops, 24))
    assert state.answers == [alone(row, stops) for row in range(4)]
    assert len(set(map(len, state.answers))) > 1


def test_row_taken_out_ends_alone(pair: Pair) -> None:
    states, cache = pair.model.extend(KVCache.empty(2), [Tokens.text([5, 6]), Tokens.text([7])])
    state, last_states = GenerationState(cache), np.stack([row[-1] for row in states])
    for row, _ in generate_tokens(pair.model, state, last_states, [greedy(), greedy()], (), 8):
        if row == 0 and len(state.answers[0]) == 3:
            state.unfinished.discard(0)
    assert [len(answer) for answer in state.answers] == [3, 8]
    assert [state.unread(row) for row in (0, 1)] == [answer[-1:] for answer in state.answers]


def test_later_turns_of_rows_give_the_states_of_whole_rows(pair: Pair) -> None:
    """Also after padding, and in a row that reads nothing for a turn."""
    turns = [[[5, 6, 7], [8]], [[], [9, 10, 11]], [[12, 13], [14]]]
    cache = KVCache.empty(2)
    for new in turns:
        states, cache = pair.model.extend(cache, [Tokens.text(ids) for ids in new])
    for row in (0, 1):
        whole, _ = pair.model.read(Tokens.text(cache.rows[row]))
        np.testing.assert_allclose(states[row], whole[-len(turns[-1][row]) :], rtol=0, atol=1e-5)


def test_cache_stays_on_the_device(pair: Pair) -> None:
    _, cache = pair.model.read(Tokens.text([5, 6, 7]))
    assert cache.past and not any(isinstance(kept, np.ndarray) for kept in cache.past.values())


def test_more_images_than_tokens_are_refused(pair: Pair) -> None:
    features = [ImageFeatures(np.zeros((1, 32), np.float32), (1, 1))] * 2
    with pytest.raises(RequestError, match="holds 1 image tokens for 2 images"):
        pair.model.expand(prompt(1), features)


def test_one_row_beyond_the_context_is_refused(pair: Pair) -> None:
    with pytest.raises(RequestError, match="has 4001 tokens; this model reads at most 4000"):
        pair.model.extend(KVCache.empty(2), [Tokens.text([1]), Tokens.text([1] * 4001)])
