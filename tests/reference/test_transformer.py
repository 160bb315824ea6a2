"""The transformer against the original's recorded outputs (tests/data/goldens), and against itself in other partitions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnigen2_rt.reference.rope import Rope
from omnigen2_rt.reference.transformer import (
    Transformer,
    TransformerConfig,
    initialize,
    omni_rope,
    position_ids,
    rope_tables,
)
from omnigen2_rt.reference.weights import load_transformer
from tests.runtime.goldens import CONFIGS, GOLDENS, arguments, arrays

TOLERANCE = 1e-4
CASES = [(config, case) for config in CONFIGS for case in arguments(config, "transformer")]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@cache
def transformer(config: str) -> Transformer:
    return load_transformer(GOLDENS / config / "checkpoint")


@cache
def recorded(config: str, name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays(config, name).items()}


def tiny(rope: Rope = omni_rope, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        hidden_size=48, num_attention_heads=4, num_kv_heads=2, axes_dim_rope=(4, 4, 4), num_layers=3,
        num_refiner_layers=1, multiple_of=16, text_feat_dim=20, in_channels=4,
    )  # fmt: skip
    return Transformer(TransformerConfig(**(sizes | changes)), rope).eval()


def references_of(data: dict[str, Tensor], case: str, sample: int) -> list[Tensor]:
    keys = sorted(key for key in data if key.startswith(f"{case}.ref{sample}_"))
    return [data[key].unsqueeze(0) for key in keys]


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    assert (actual.double() - expected.double()).abs().max().item() <= tolerance


@pytest.mark.parametrize(("config", "case"), CASES)
def test_forward_of_each_recorded_sample_alone_matches_the_original(config: str, case: str) -> None:
    data = recorded(config, "transformer")
    for sample, text_tokens in enumerate(arguments(config, "transformer")[case]["text_lens"]):
        velocity = transformer(config)(
            data[f"{case}.x{sample}"].unsqueeze(0),
            data[f"{case}.timestep"][sample : sample + 1],
            data[f"{case}.text"][sample : sample + 1, :text_tokens],
            references_of(data, case, sample),
        )
        assert_near(velocity[0], data[f"{case}.out{sample}"])


@pytest.mark.parametrize("config", CONFIGS)
def test_forward_of_a_padded_batch_matches_the_original(config: str) -> None:
    data, model, case = recorded(config, "transformer"), transformer(config), "t2i_b2_pad"
    latents = torch.stack([data[f"{case}.x{sample}"] for sample in range(2)])
    padded = data[f"{case}.text"].shape[1]
    lengths = arguments(config, "transformer")[case]["text_lens"]
    tables = [model.rope_tables(length, (), latents, padded) for length in lengths]
    velocity = model(
        latents,
        data[f"{case}.timestep"],
        data[f"{case}.text"],
        tables=(torch.stack([cos for cos, _ in tables]), torch.stack([sin for _, sin in tables])),
        text_mask=data[f"{case}.mask"].bool(),
    )
    for sample in range(2):
        assert_near(velocity[sample], data[f"{case}.out{sample}"])


@pytest.mark.parametrize("config", CONFIGS)
def test_components_match_the_original_at_every_stage(config: str) -> None:
    data, model, case = recorded(config, "transformer"), transformer(config), "mixed_b2"
    text_tokens = arguments(config, "transformer")[case]["text_lens"][0]
    latents, references = data[f"{case}.x0"].unsqueeze(0), references_of(data, case, 0)
    cos, sin = model.rope_tables(text_tokens, references, latents)
    temb = model.embed_timesteps(data[f"{case}.timestep"][:1])
    assert_near(temb, data[f"{case}.mid.temb"][:1])

    context = model.refine_context(data[f"{case}.text"][:1, :text_tokens], cos[:text_tokens], sin[:text_tokens])
    assert_near(context, data[f"{case}.mid.context"][:1, :text_tokens])

    joined, start = [context], text_tokens
    for index, reference in enumerate(references):
        end = start + reference.shape[-2] * reference.shape[-1] // 4
        tokens = model.embed_reference(reference, torch.tensor([index]), temb, cos[start:end], sin[start:end])
        assert_near(tokens[0], data[f"{case}.mid.ref_refined"][index, : end - start])
        joined, start = [*joined, tokens], end

    image_tokens = model.embed_latents(latents, temb, cos[start:], sin[start:])
    assert_near(image_tokens[0], data[f"{case}.mid.noise_refined"][0, : len(cos) - start])
    assert_near(torch.cat([*joined, image_tokens], 1)[0], data[f"{case}.mid.joint_in"][0, : len(cos)])

    hidden = model.joint(context, torch.cat(joined[1:], 1), image_tokens, temb, cos, sin)
    last = data[f"{case}.mid.layer{model.config.num_layers - 1}"]
    assert_near(hidden[0], last[0, start : len(cos)])
    assert_near(model.velocity(hidden, temb, latents)[0], data[f"{case}.out0"])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("block", ["layers.0", "noise_refiner.0", "ref_image_refiner.0"])
def test_modulated_block_matches_the_original(config: str, block: str) -> None:
    data, module = recorded(config, "blocks"), transformer(config).get_submodule(block)
    mask = data["joint_mask"]
    hidden = module(data["joint_hidden"], data["joint_cos"], data["joint_sin"], data["temb"], mask)
    assert_near(hidden[mask], data[block.replace(".", "")][mask])


@pytest.mark.parametrize("config", CONFIGS)
def test_parts_of_a_block_match_the_original(config: str) -> None:
    data, layer = recorded(config, "blocks"), transformer(config).layers[0]
    mask, tables = data["joint_mask"], (data["joint_cos"], data["joint_sin"])
    names = ("x", "gate_msa", "scale_mlp", "gate_mlp")
    for name, part in zip(names, layer.norm1(data["joint_hidden"], data["temb"]), strict=True):
        assert_near(part if name == "x" else part.squeeze(1), data[f"layers0_norm1_{name}"])
    assert_near(layer.attn(data["layers0_norm1_x"], *tables, mask)[mask], data["layers0_attn"][mask])
    assert_near(layer.feed_forward(data["joint_hidden"]), data["layers0_ff"])


@pytest.mark.parametrize("config", CONFIGS)
def test_text_and_timestep_and_output_parts_match_the_original(config: str) -> None:
    data, model = recorded(config, "blocks"), transformer(config)
    assert_near(model.embed_timesteps(data["timestep"]), data["temb"])
    assert_near(model.time_caption_embed.caption_embedder(data["text"]), data["caption"])
    mask = data["text_mask"].bool()
    refined = model.context_refiner[0](data["caption"], data["cap_cos"], data["cap_sin"], mask)
    assert_near(refined[mask], data["context_refiner0"][mask])
    assert_near(model.norm_out(data["joint_hidden"], data["temb"]), data["norm_out"])


@pytest.mark.parametrize("config", CONFIGS)
def test_parts_of_small_inputs_match_the_original_where_every_eps_counts(config: str) -> None:
    data, model = recorded(config, "blocks"), transformer(config)
    layer, temb, small = model.layers[0], data["temb"], 0.003 * data["joint_hidden"]
    mask, tables = data["joint_mask"], (data["joint_cos"], data["joint_sin"])
    assert_near(layer(small, *tables, temb, mask)[mask], data["small_layers0"][mask])
    assert_near(layer.attn(small, *tables, mask)[mask], data["small_attn"][mask], 1e-7)
    assert_near(model.time_caption_embed.caption_embedder(0.003 * data["text"]), data["small_caption"])
    text_mask = data["text_mask"].bool()
    refined = model.context_refiner[0](0.003 * data["caption"], data["cap_cos"], data["cap_sin"], text_mask)
    assert_near(refined[text_mask], data["small_context0"][text_mask])
    assert_near(model.norm_out(small, temb), data["small_norm_out"])


def whole_layers(model: Transformer, parts: Sequence[Tensor], temb: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    hidden = torch.cat(list(parts), 1)
    for layer in model.layers:
        hidden = layer(hidden, cos, sin, temb)
    return hidden


def test_joint_with_image_queries_only_in_the_last_layer_equals_whole_layers() -> None:
    model = tiny()
    context, references, image_tokens = torch.randn(2, 5, 48), torch.randn(2, 7, 48), torch.randn(2, 6, 48)
    cos, sin = rope_tables(torch.randint(0, 30, (18, 3)), (4, 4, 4), 1e4)
    temb = torch.randn(2, 48)
    whole = whole_layers(model, (context, references, image_tokens), temb, cos, sin)
    assert_near(model.joint(context, references, image_tokens, temb, cos, sin), whole[:, 12:], 1e-5)


def test_joint_with_a_context_of_batch_one_equals_the_context_repeated() -> None:
    model = tiny()
    context, references, image_tokens = torch.randn(1, 5, 48), torch.randn(1, 4, 48), torch.randn(3, 6, 48)
    cos, sin = rope_tables(torch.randint(0, 30, (15, 3)), (4, 4, 4), 1e4)
    temb = torch.randn(1, 48)
    shared = model.joint(context, references, image_tokens, temb, cos, sin)
    alone = [model.joint(context, references, image_tokens[i : i + 1], temb, cos, sin) for i in range(3)]
    assert_near(shared, torch.cat(alone), 1e-5)


def exact_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """omni_rope in its input's own type: a float64 network is float64 throughout."""
    even, odd = F.rms_norm(x, weight.shape, weight, eps).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).transpose(1, 2)


def exact_tables(positions: Tensor) -> tuple[Tensor, Tensor]:
    """rope_tables of the axes (4, 4, 4), left in float64."""
    angles = positions.double().unsqueeze(-1) * torch.tensor([1.0, 0.01], dtype=torch.float64)
    return angles.flatten(-2).cos(), angles.flatten(-2).sin()


@pytest.mark.parametrize("text_tokens", [3, 700])
def test_tokens_shared_by_guidance_branches_change_nothing_beyond_rounding(text_tokens: int) -> None:
    """Within an image only differences of positions count, and its first axis is constant. So tokens that are refined without
    any text serve every branch. In float64 no difference is left, so that of float32 is rounding."""
    model = tiny(exact_rope).double()
    latents, reference, text = (torch.randn(size).double() for size in ((1, 4, 8, 6), (1, 4, 4, 6), (1, text_tokens, 20)))
    grids, timestep = ((2, 3), (4, 3)), torch.tensor([0.3])
    joint = exact_tables(position_ids(text_tokens, grids[:1], grids[1]))
    alone = model(latents, timestep, text, [reference], tables=joint)
    temb = model.embed_timesteps(timestep)
    context = model.refine_context(text, *exact_tables(position_ids(text_tokens, (), (0, 0))))
    references = model.embed_reference(reference, 0, temb, *exact_tables(position_ids(0, (), grids[0])))
    image_tokens = model.embed_latents(latents, temb, *exact_tables(position_ids(0, (), grids[1])))
    shared = model.velocity(model.joint(context, references, image_tokens, temb, *joint), temb, latents)
    assert shared.dtype == torch.float64 and shared.abs().max() > 0.1
    assert_near(shared, alone, 1e-12)


def test_forward_of_a_batch_equals_each_image_alone() -> None:
    model, text = tiny(), torch.randn(1, 5, 20)
    latents, references = torch.randn(2, 4, 8, 6), [torch.randn(1, 4, 4, 6), torch.randn(1, 4, 6, 2)]
    timesteps = torch.tensor([0.3])
    together = model(latents, timesteps, text, references)
    alone = [model(latents[i : i + 1], timesteps, text, references) for i in range(2)]
    assert_near(together, torch.cat(alone), 1e-5)


def test_embed_reference_by_int_equals_by_tensor() -> None:
    model, latents, temb = tiny(), torch.randn(2, 4, 4, 6), torch.randn(2, 48)
    tables = rope_tables(position_ids(0, (), (2, 3)), (4, 4, 4), 1e4)
    by_int = model.embed_reference(latents, 2, temb, *tables)
    by_tensor = model.embed_reference(latents, torch.tensor([2]), temb, *tables)
    other = model.embed_reference(latents, 3, temb, *tables)
    assert torch.equal(by_int, by_tensor)
    assert not torch.allclose(by_int, other, atol=1e-3)


def test_cache_signal_is_the_first_norm_and_its_change() -> None:
    model, temb = tiny(), torch.randn(1, 48)
    context, image_tokens = torch.randn(1, 5, 48), torch.randn(2, 6, 48)
    first, not_yet = model.cache_signal(context, None, image_tokens, temb, torch.zeros(2, 11, 48))
    assert not torch.isfinite(not_yet)
    second, change = model.cache_signal(context, None, 1.5 * image_tokens + 0.1, temb, first)
    assert_near(
        second, model.layers[0].norm1(torch.cat((context.expand(2, -1, -1), 1.5 * image_tokens + 0.1), 1), temb)[0]
    )
    assert change.shape == ()
    assert_near(change, (second - first).abs().mean() / first.abs().mean(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_forward_in_half_precision_stays_near_float32(dtype: torch.dtype) -> None:
    model = tiny()
    latents, text, reference = torch.randn(1, 4, 8, 6), torch.randn(1, 5, 20), torch.randn(1, 4, 4, 4)
    exact = model(latents, torch.tensor([0.3]), text, [reference])
    halved = tiny().to(dtype)(latents.to(dtype), torch.tensor([0.3]), text.to(dtype), [reference.to(dtype)])
    assert halved.dtype == dtype
    assert_near(halved, exact, 0.05 if dtype == torch.bfloat16 else 0.01)


def test_omni_rope_can_be_replaced() -> None:
    def counting(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        calls.append((tuple(x.shape), eps))
        return omni_rope(x, weight, cos, sin, eps)

    calls: list[tuple[tuple[int, ...], float]] = []
    model = Transformer(tiny().config, counting)
    model(torch.randn(1, 4, 4, 4), torch.tensor([0.1]), torch.randn(1, 3, 20))
    assert calls[0] == ((1, 3, 2, 12), 1e-5)
    assert calls[-1] == ((1, 4, 4, 12), 1e-5)  # the last queries: the image's tokens only
    assert len(calls) == 2 * (1 + 1 + 3)


def test_initialize_starts_at_zero_velocity_and_identity_blocks() -> None:
    model = tiny()
    initialize(model)
    hidden, tables = torch.randn(1, 6, 48), rope_tables(position_ids(6, (), (0, 0)), (4, 4, 4), 1e4)
    assert torch.equal(model.layers[0](hidden, *tables, torch.randn(1, 48)), hidden)
    assert not model(torch.randn(1, 4, 4, 4), torch.tensor([0.1]), torch.randn(1, 3, 20)).any()
