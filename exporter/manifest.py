"""A checkpoint's part of `bundle.json`: the numbers and templates that the runtime needs, and nothing that it could compute."""

from __future__ import annotations

from ..reference.mllm import MLLMConfig
from ..reference.transformer import TransformerConfig
from ..reference.vae import VAEConfig
from ..runtime.errors import BundleError
from ..runtime.manifest import (
    FORMAT_VERSION,
    Manifest,
    MLLMParameters,
    SchedulerParameters,
    TransformerParameters,
    VAEParameters,
)
from .processor import Processor

TOKENIZER = "processor/tokenizer.json"
TEACACHE_COEFFICIENTS = (-5.48259225, 11.48772289, -4.47407401, 2.47730926, -0.03316487)
"""Fitted to the published model by its authors (omnigen2/models/transformers/transformer_omnigen2.py)."""


def make_manifest(
    source: str,
    transformer: TransformerConfig,
    vae: VAEConfig,
    mllm: MLLMConfig,
    scheduler: SchedulerParameters,
    processor: Processor,
) -> Manifest:
    """A manifest without graphs, files and tools. source: the checkpoint's name.

    Raises ValueError where a value has another type than the manifest's.
    """
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        tools={},
        transformer=TransformerParameters(
            hidden_size=transformer.hidden_size,
            latent_channels=transformer.in_channels,
            patch_size=transformer.patch_size,
            rope_axes=transformer.axes_dim_rope,
            rope_theta=transformer.rope_theta,
            max_references=transformer.max_references,
            teacache_coefficients=TEACACHE_COEFFICIENTS,
        ),
        vae=VAEParameters(
            downscale=vae.pixels_per_latent,
            scaling_factor=vae.scaling_factor,
            shift_factor=vae.shift_factor or 0.0,
            sample_px=vae.sample_size,
        ),
        mllm=MLLMParameters(
            hidden_size=mllm.hidden_size,
            layers=mllm.num_hidden_layers,
            kv_heads=mllm.num_key_value_heads,
            head_width=mllm.head_width,
            rope_theta=mllm.rope_theta,
            mrope_section=mllm.mrope_section,
        ),
        scheduler=scheduler,
        prompts=processor.prompts,
        tokenizer=TOKENIZER,
        graphs=(),
        files=(),
        chat=processor.chat,
        vision=processor.vision,
    )
    _check_types(manifest)
    return manifest


def _check_types(manifest: Manifest) -> None:
    try:
        Manifest.from_json(manifest.to_json(), "the manifest")
    except BundleError as error:
        raise ValueError(str(error).removesuffix(": export the bundle again")) from error
