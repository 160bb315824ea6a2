"""The autoencoder against the original's recorded outputs (tests/data/goldens/*/golden/vae.npz)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from omnigen2_rt.reference.vae import VAE, VAEConfig
from omnigen2_rt.reference.weights import load_vae
from tests.runtime.goldens import CONFIGS, GOLDENS, arrays

SMALL: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@cache
def vae(config: str) -> VAE:
    return load_vae(GOLDENS / config / "checkpoint")


def recorded(config: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays(config, "vae").items()}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["a", "b"])
def test_encode_matches_the_original(config: str, case: str) -> None:
    data = recorded(config)
    mean, logvar = vae(config).encode(data[f"{case}_x"])
    torch.testing.assert_close(mean, data[f"{case}_mean"], rtol=0, atol=1e-4)
    torch.testing.assert_close(logvar, data[f"{case}_logvar"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("latents", "pixels"), [("a_z", "a_dec"), ("b_z", "b_dec"), ("z_b2", "dec_b2")])
def test_decode_matches_the_original(config: str, latents: str, pixels: str) -> None:
    data = recorded(config)
    torch.testing.assert_close(vae(config).decode(data[latents]), data[pixels], rtol=0, atol=1e-4)


def test_encode_clamps_the_log_variance() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(**SMALL))
    model.encoder.conv_out.bias[4:] = torch.tensor([-1000.0, 1000.0, 0.0, 0.0])
    _, logvar = model.encode(torch.rand(1, 3, 8, 8))
    assert (logvar[:, 0] == -30).all()
    assert (logvar[:, 1] == 20).all()


def test_quant_convs_are_applied_where_the_config_has_them() -> None:
    torch.manual_seed(0)
    plain = VAE(VAEConfig(**SMALL))
    quant = VAE(VAEConfig(**SMALL, use_quant_conv=True, use_post_quant_conv=True))
    assert quant.state_dict().keys() - plain.state_dict().keys() == {
        f"{name}.{kind}" for name in ("quant_conv", "post_quant_conv") for kind in ("weight", "bias")
    }
    quant.load_state_dict(plain.state_dict(), strict=False)
    for conv in (quant.quant_conv, quant.post_quant_conv):
        conv.weight.copy_(2 * torch.eye(conv.in_channels).reshape(conv.weight.shape))
        conv.bias.zero_()
    pixels, latents = torch.rand(1, 3, 8, 8), torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(quant.encode(pixels)[0], 2 * plain.encode(pixels)[0])
    torch.testing.assert_close(quant.decode(latents), plain.decode(2 * latents))


def test_mid_block_without_attention_has_no_attention_weights() -> None:
    model = VAE(VAEConfig(**SMALL, mid_block_add_attention=False))
    assert not [name for name in model.state_dict() if "attentions" in name]
    assert model.decode(torch.randn(1, 4, 2, 3)).shape == (1, 3, 4, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "relu"}, "act_fn='relu'; only 'silu' is supported"),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "down_block_types="),
        ({"latents_mean": [0.0]}, "latents_mean="),
        ({"surprise": 1}, r"unknown keys \['surprise'\]"),
        ({"norm_num_groups": 3}, "must be multiples of norm_num_groups=3"),
        ({"scaling_factor": 0}, "scaling_factor=0 must be a number from 1e-06 to"),
        ({"layers_per_block": 0}, "layers_per_block=0 must be an integer from 1 to 64"),
        ({"block_out_channels": []}, "must be one to 8 integers"),
    ],
)
def test_config_of_another_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig.from_json(SMALL | changes)


def test_config_counts_pixels_per_latent() -> None:
    assert VAEConfig().pixels_per_latent == 8
