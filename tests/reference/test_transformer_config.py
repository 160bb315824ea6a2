"""The transformer's config: invalid values are refused, and the full model's follow from the defaults."""

from __future__ import annotations

from typing import Any

import pytest

from omnigen2_rt.reference.transformer_config import TransformerConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 100}, "hidden_size=100 must be num_attention_heads=21 times the head width 120"),
        ({"num_kv_heads": 4}, "num_attention_heads=21 must be a multiple of num_kv_heads=4"),
        ({"axes_dim_rope": [40, 41, 39]}, "three even integers"),
        ({"num_layers": 0}, "num_layers=0 must be an integer from 1 to 1024"),
        ({"patch_size": 2.0}, "patch_size=2.0 must be an integer"),
        ({"norm_eps": 0}, "norm_eps=0 must be a number from 1e-30 to"),
        ({"out_channels": 0}, "out_channels=0 must be an integer from 1 to 4096"),
        ({"ffn_dim_multiplier": 0.0}, "ffn_dim_multiplier=0.0 must be a number from 0.001 to 1000"),
        ({"num_layer": 3, "heads": 1}, r"unknown keys \['heads', 'num_layer'\]"),
    ],
)
def test_config_that_makes_no_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig.from_json(changes)


def test_config_from_json_ignores_the_keys_of_diffusers() -> None:
    config = TransformerConfig.from_json({"_class_name": "OmniGen2Transformer2DModel", "num_layers": 4})
    assert (config.num_layers, config.head_width, config.ffn_width, config.conditioning_width) == (4, 120, 10240, 1024)
