"""The language model against the original's recorded outputs and against transformers on fresh weights."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from omnigen2_rt.reference.mllm import MLLM, LanguageModel, MLLMConfig, mrope_tables
from omnigen2_rt.reference.weights import load_mllm
from tests.runtime.goldens import CONFIGS, GOLDENS, arguments, arrays

TOLERANCE = 1e-4
SMALL: dict[str, Any] = dict(
    vocab_size=50, hidden_size=48, intermediate_size=56, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, rms_norm_eps=1e-6,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@cache
def mllm(config: str) -> MLLM:
    return load_mllm(GOLDENS / config / "checkpoint")


def recorded(config: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays(config, "mllm").items()}


def causal(new: int, past: int = 0) -> Tensor:
    """(1, 1, T, P+T) bool: each new token attends to the past and to itself."""
    return torch.ones(new, past + new, dtype=torch.bool).tril(past)[None, None]


def tables(model: LanguageModel, positions: Tensor) -> tuple[Tensor, Tensor]:
    config = model.config
    return mrope_tables(positions, config.head_width, config.rope_theta, config.mrope_section)


def text_positions(tokens: int) -> Tensor:
    return torch.arange(tokens).expand(3, 1, -1)


def read(model: LanguageModel, embeds: Tensor, positions: Tensor) -> Tensor:
    hidden, _, _ = model(embeds, *tables(model, positions), causal(embeds.shape[1]), *model.empty_cache(len(embeds)))
    return hidden


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["t2i0", "t2i1", "t2i2", "t2i3"])
def test_hidden_states_of_a_prompt_match_the_original(config: str, case: str) -> None:
    data, model = recorded(config), mllm(config).language_model
    ids = data[f"{case}_ids"]
    hidden = read(model, model.embed_tokens(ids), text_positions(ids.shape[1]))
    torch.testing.assert_close(hidden, data[f"{case}_hidden"], rtol=0, atol=TOLERANCE)
    if f"{case}_logits_last" in data:
        logits = model.lm_head(hidden[:, -1])
        torch.testing.assert_close(logits, data[f"{case}_logits_last"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["chat0", "chat1", "chat2"])
def test_hidden_states_of_a_chat_match_the_original(config: str, case: str) -> None:
    data, model = recorded(config), mllm(config).language_model
    ids = data[f"{case}_ids"]
    embeds = model.embed_tokens(ids)
    is_image = ids == model.config.image_token_id
    if f"{case}_visual" in data:
        embeds[is_image] = data[f"{case}_visual"]
    hidden = read(model, embeds, data[f"{case}_pos"])
    torch.testing.assert_close(hidden, data[f"{case}_hidden_full"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(hidden[~is_image][None], data[f"{case}_hidden_text"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(model.lm_head(hidden[:, -1]), data[f"{case}_logits_last"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS)
def test_hidden_states_of_a_padded_batch_match_the_original(config: str) -> None:
    data, model = recorded(config), mllm(config).language_model
    longest, mask = data["t2i_batch_mask"].shape[1], data["t2i_batch_mask"].bool()
    rows = [torch.nn.functional.pad(data[f"t2i{i}_ids"], (0, longest - data[f"t2i{i}_ids"].shape[1])) for i in (0, 1)]
    visible = causal(longest) & mask[:, None, None, :]
    embeds = model.embed_tokens(torch.cat(rows))
    positions = text_positions(longest).expand(3, 2, -1)
    hidden, _, _ = model(embeds, *tables(model, positions), visible, *model.empty_cache(2))
    torch.testing.assert_close(hidden[mask], data["t2i_batch_hidden"][mask], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS)
def test_greedy_tokens_with_the_kv_cache_match_the_original(config: str) -> None:
    """The end tokens are forbidden, as in the recording."""
    data, model, checkpoint = recorded(config), mllm(config).language_model, GOLDENS / config / "checkpoint"
    tokenizer = Tokenizer.from_file(str(checkpoint / "processor" / "tokenizer.json"))
    new = torch.tensor([tokenizer.encode(arguments(config, "mllm")["gen0"]["text"]).ids])
    ends = json.loads((checkpoint / "mllm" / "generation_config.json").read_text())["eos_token_id"]
    keys, values = model.empty_cache(1)
    positions, tokens = text_positions(new.shape[1]), []
    for _ in range(16):
        past = keys[0].shape[2]
        embeds = model.embed_tokens(new)
        hidden, keys, values = model(embeds, *tables(model, positions), causal(new.shape[1], past), keys, values)
        logits = model.lm_head(hidden[:, -1])
        if not tokens:
            torch.testing.assert_close(logits, data["gen0_rp1_logits0"], rtol=0, atol=TOLERANCE)
        logits[:, ends] = -torch.inf
        new = logits.argmax(-1, keepdim=True)
        positions = torch.full((3, 1, 1), keys[0].shape[2])
        tokens.append(new.item())
    assert tokens == data["gen0_rp1_tokens"][0].tolist()


def random_pair(section: list[int]) -> tuple[Qwen2_5_VLTextModel, LanguageModel]:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section}
    oracle = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**SMALL, rope_parameters=rope)).eval()
    for weight in oracle.parameters():
        weight.normal_(0.0, 0.2)
    config = MLLMConfig(**SMALL, rope_theta=10000.0, mrope_section=(section[0], section[1], section[2]))
    model = LanguageModel(config).eval()
    model.load_state_dict(oracle.state_dict())
    return oracle, model


@pytest.mark.parametrize("section", [[2, 1, 1], [1, 1, 2]])
def test_model_equals_transformers_on_three_axis_positions(section: list[int]) -> None:
    oracle, model = random_pair(section)
    embeds, positions = torch.randn(1, 9, 48), torch.randint(0, 40, (3, 1, 9))
    expected = oracle(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    torch.testing.assert_close(read(model, embeds, positions), expected, rtol=0, atol=TOLERANCE)


def test_model_in_two_parts_with_the_kv_cache_equals_the_whole() -> None:
    oracle, model = random_pair([2, 1, 1])
    embeds, positions = torch.randn(2, 9, 48), torch.randint(0, 40, (3, 2, 9))
    whole = oracle(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    cos, sin = tables(model, positions)
    first, keys, values = model(embeds[:, :6], cos[:, :6], sin[:, :6], causal(6), *model.empty_cache(2))
    second, keys, values = model(embeds[:, 6:], cos[:, 6:], sin[:, 6:], causal(3, 6), keys, values)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=0, atol=TOLERANCE)
    assert [key.shape for key in keys] == [value.shape for value in values] == [(2, 2, 9, 8)] * 3


def test_added_mask_equals_the_bool_one() -> None:
    _, model = random_pair([2, 1, 1])
    embeds, (cos, sin) = torch.randn(1, 5, 48), tables(model, text_positions(5))
    added = torch.zeros(1, 1, 5, 5).masked_fill(~causal(5), float("-inf"))
    by_bool, _, _ = model(embeds, cos, sin, causal(5), *model.empty_cache(1))
    by_sum, _, _ = model(embeds, cos, sin, added, *model.empty_cache(1))
    torch.testing.assert_close(by_sum, by_bool, rtol=0, atol=1e-5)


def test_model_in_bfloat16_stays_near_float32() -> None:
    _, model = random_pair([2, 1, 1])
    embeds, positions = torch.randn(1, 5, 48), text_positions(5)
    exact = read(model, embeds, positions)
    model.bfloat16()
    rounded = read(model, embeds.bfloat16(), positions)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.15)


def test_config_reads_the_form_of_the_installed_transformers() -> None:
    rope = {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [2, 1, 1]}
    written = Qwen2_5_VLConfig(text_config={**SMALL, "rope_parameters": rope}, tie_word_embeddings=True).to_dict()
    expected = MLLMConfig(**SMALL, rope_theta=5000.0, mrope_section=(2, 1, 1), tie_word_embeddings=True)
    assert MLLMConfig.from_json(written) == expected


def test_config_reads_the_flat_form_of_older_ones() -> None:
    flat = {**SMALL, "rope_theta": 5000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}
    expected = MLLMConfig(**SMALL, rope_theta=5000.0, mrope_section=(2, 1, 1), tie_word_embeddings=False)
    assert MLLMConfig.from_json(flat) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": None}, r"mllm config lacks \['vocab_size'\]"),
        ({"hidden_act": "gelu"}, "another activation than silu"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"rope_scaling": {"type": "yarn"}}, "rope type 'yarn'"),
        ({"num_key_value_heads": 4}, "num_key_value_heads=4"),
        ({"rope_scaling": {"mrope_section": [1, 1, 1]}}, "must be three numbers summing to 8/2"),
    ],
)
def test_config_that_makes_no_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLLMConfig.from_json({**SMALL, "rope_scaling": {"mrope_section": [2, 1, 1]}, **changes})
