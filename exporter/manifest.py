"""What `bundle.json` says of a checkpoint: the numbers and templates that the runtime needs, and nothing it could compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..runtime.manifest import (
    FORMAT_VERSION,
    FileSpec,
    GraphSpec,
    Manifest,
    MLLMParameters,
    Prompts,
    SchedulerParameters,
    TransformerParameters,
    VAEParameters,
)
from .checkpoint import Checkpoint, drawing_template
from .processor import chat_facts, vision_facts
from .tokenizer import tokenizer_json

TOKENIZER = "processor/tokenizer.json"
TEACACHE_COEFFICIENTS = (-5.48259225, 11.48772289, -4.47407401, 2.47730926, -0.03316487)
"""Fitted to the published model by its authors (omnigen2/models/transformers/transformer_omnigen2.py)."""


def write_tokenizer(checkpoint: Checkpoint, bundle: Path) -> None:
    """Put the checkpoint's tokenizer.json into the bundle."""
    target = bundle / TOKENIZER
    target.parent.mkdir(exist_ok=True)
    target.write_text(tokenizer_json(checkpoint.path), encoding="utf-8")


def make_manifest(
    checkpoint: Checkpoint, graphs: Sequence[GraphSpec], files: Sequence[FileSpec], tools: Mapping[str, str]
) -> Manifest:
    """The manifest of a bundle with these graphs and files, written by these tools (name -> version)."""
    transformer, vae, mllm = checkpoint.transformer, checkpoint.vae, checkpoint.mllm
    return Manifest(
        format_version=FORMAT_VERSION,
        source=Path(checkpoint.name).name,
        tools=dict(tools),
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
        scheduler=SchedulerParameters(dynamic_time_shift=checkpoint.dynamic_time_shift),
        prompts=Prompts(drawing=drawing_template(checkpoint.path)),
        tokenizer=TOKENIZER,
        graphs=tuple(graphs),
        files=tuple(files),
        chat=chat_facts(checkpoint),
        vision=vision_facts(checkpoint),
    )
