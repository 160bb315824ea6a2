"""The quantization schemes, one entry each: which components, and how the weights of their Linears are stored.

A Linear is rounded where its weight's name holds one of `ROUNDED`: attention's projections and the feed-forward layers, and
the language model's head. Embeddings, modulation and norms keep their weights: few bytes, and errors there reach everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ROUNDED = (".attn.", ".feed_forward.", ".self_attn.", ".mlp.", "embed_tokens.", "language_model.head.")
MOST_PADDING = 1 / 32
"""The padding that a larger block may cost, as a part of a Linear's inputs."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Form in which weights are stored. Codes are symmetric: zero is a code, and there are no zero points.

    codes: their type; "fp8" is E4M3.
    blocks: the numbers of inputs that may share a scale, largest first; none: an output's whole column shares one.
    rounds_inputs: the inputs are rounded to the codes' type as well, with a calibrated scale.
    aligned_inputs: where a whole column shares a scale, the inputs are padded to a multiple of this.
    """

    codes: Literal["int8", "int4", "fp8"]
    blocks: tuple[int, ...] = ()
    rounds_inputs: bool = False
    aligned_inputs: int = 1

    def block(self, inputs: int) -> int | None:
        """The block for a number of inputs, which are padded to a multiple of it.

        At least two blocks where that is possible: with one, TensorRT for RTX 1.7 can't build nano's language model in fp32.
        """
        if not self.blocks:
            return None
        fitting = (block for block in self.blocks if block < inputs and -inputs % block <= MOST_PADDING * inputs)
        return next(fitting, self.blocks[-1])


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A quantization scheme.

    components: how each component's weights are stored; the others stay unchanged.
    compensates_errors: 4-bit weights are rounded with error compensation (gptq.py), which needs input statistics.
    """

    name: str
    help: str
    components: Mapping[str, Storage]
    compensates_errors: bool = False

    @property
    def calibrated_components(self) -> tuple[str, ...]:
        """The components that need input statistics."""
        return tuple(
            name for name, storage in self.components.items() if storage.rounds_inputs or self.compensates_errors
        )


INT8_BLOCKS = Storage(codes="int8", blocks=(128, 64, 32, 16))
"""Blocks of 128 ran twice as fast as blocks of 32."""
INT8_COLUMNS = Storage(codes="int8")
"""TensorRT for RTX 1.7 multiplies by these as they are. Those in blocks it first widens, all of a component's at once."""
INT8_STATIC = Storage(codes="int8", rounds_inputs=True)
INT4_BLOCKS = Storage(codes="int4", blocks=(32,))
FP8_STATIC = Storage(codes="fp8", rounds_inputs=True, aligned_inputs=16)
"""GPUs multiply 8-bit floats fast only where the inputs are a multiple of 16."""

LANGUAGE = ("language_model", "lm_head")
DRAWING = ("transformer", "context_refiner", "reference_embedder", "latent_embedder")

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="int8-weights",
            help="8-bit weights in blocks: a quarter of float32, nearly the same pictures",
            components=dict.fromkeys((*LANGUAGE, *DRAWING), INT8_BLOCKS),
        ),
        Scheme(
            name="int4-weights",
            help="4-bit weights in blocks of 32, 8 bits in the head: the smallest",
            components={**dict.fromkeys((*LANGUAGE, *DRAWING), INT4_BLOCKS), "lm_head": INT8_BLOCKS},
            compensates_errors=True,
        ),
        Scheme(
            name="int8",
            help="8-bit weights and activations in what draws: products of 8-bit numbers, calibrated on prompts",
            components=dict.fromkeys(DRAWING, INT8_STATIC),
        ),
        Scheme(
            name="fp8",
            help="8-bit floats (E4M3) in what draws, weights and activations, and 8-bit weights in the language model: for GPUs",
            components={**dict.fromkeys(LANGUAGE, INT8_COLUMNS), **dict.fromkeys(DRAWING, FP8_STATIC)},
        ),
    )
}
"""By name."""
