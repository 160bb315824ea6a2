"""The ways to quantize a bundle, one entry each: which components, and how the weights of their Linears are stored.

A Linear is rounded where its weight's name holds one of `ROUNDED`: attention's projections and the feed-forward layers, and
the language model's head. What embeds, modulates and normalises stays as it is: few bytes, and errors there reach everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ROUNDED = (".attn.", ".feed_forward.", ".self_attn.", ".mlp.", "embed_tokens.", "language_model.head.")
MOST_PADDING = 1 / 32
"""How much longer a Linear's inputs may become for the sake of larger blocks."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a weight is stored. bits: 8 (signed) or 4 (unsigned, with zero points).

    blocks: how many inputs may share a scale, largest first; none: an output's whole column shares one.
    rounds_inputs: whether what comes in is rounded to 8 bits as well, by a scale that was measured beforehand.
    """

    bits: int
    blocks: tuple[int, ...] = ()
    rounds_inputs: bool = False

    def block(self, inputs: int) -> int | None:
        """The block for that many inputs, which are padded to a multiple of it where it doesn't divide them."""
        if not self.blocks:
            return None
        fitting = (block for block in self.blocks if -inputs % block <= MOST_PADDING * inputs)
        return next(fitting, self.blocks[-1])


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """An entry of the table. components: how the weights of each are stored; a component that isn't named stays as it is.

    weighs_inputs: whether a weight's error counts by what came in when the model ran.
    """

    name: str
    help: str
    components: Mapping[str, Storage]
    weighs_inputs: bool = False

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The components whose inputs have to be seen first."""
        return tuple(name for name, storage in self.components.items() if storage.rounds_inputs or self.weighs_inputs)


INT8_BLOCKS = Storage(bits=8, blocks=(128, 64, 32, 16))
"""Of blocks of 32 and 128, 128 was twice as fast."""
INT8_STATIC = Storage(bits=8, rounds_inputs=True)
INT4_BLOCKS = Storage(bits=4, blocks=(32,))

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
            weighs_inputs=True,
        ),
        Scheme(
            name="int8",
            help="8-bit weights and activations in what draws: products of 8-bit numbers, calibrated on prompts",
            components=dict.fromkeys(DRAWING, INT8_STATIC),
        ),
    )
}
"""By name."""
