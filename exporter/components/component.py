"""The definition of an exported component: its network, its inputs and outputs, and the error that its graph may have.

Knows nothing of ONNX. Export, manifest entry, parity check and engine profiles all follow from these fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

DType = Literal["compute", "float32", "int64", "bool"]
Part = Literal["transformer", "vae", "mllm"]
Dim = int | str


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output.

    shape: numbers, and names of dynamic sizes.
    dtype: "compute" is the graph's precision.
    """

    shape: tuple[Dim, ...]
    dtype: DType = "compute"


Tensors = dict[str, Tensor]
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Component:
    """A piece of the model that becomes one graph.

    name: the component's name in the bundle.
    part: the reference network that it belongs to.
    config: the checkpoint's config that its inputs and outputs need, where it isn't the part's own.
    forward: computes it as `forward(network, *inputs)`, with the inputs in the order of `inputs(config)`.
    inputs, outputs: functions of the config.
    sizes: example values of the dynamic sizes, consistent with each other. Each is 2 or more, so that export keeps it dynamic.
    draw: random generators of the sample's inputs by name; the default is a standard normal.
    tolerance: the largest relative error (of the L2 norm) against the reference in float32, by precision.
    keeps_float32, picture_rows, repeats_shapes: as in the manifest's `GraphSpec`.
    """

    name: str
    part: Part
    config: str = ""
    forward: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]
    inputs: Callable[[Any], Tensors]
    outputs: Callable[[Any], Tensors]
    sizes: Mapping[str, int]
    draw: Mapping[str, Draw] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=lambda: {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2})
    keeps_float32: bool = False
    picture_rows: bool = False
    repeats_shapes: bool = False

    def sample(self, config: Any, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
        """Random inputs by name: float32, int64 or bool arrays of the example sizes, with `sizes` in their place."""
        rng = np.random.default_rng(seed)
        all_sizes = {**self.sizes, **sizes}
        return {name: self._draw(name, spec, rng, all_sizes) for name, spec in self.inputs(config).items()}

    def _draw(self, name: str, spec: Tensor, rng: np.random.Generator, sizes: Mapping[str, int]) -> np.ndarray:
        shape = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)
        if name in self.draw:
            return self.draw[name](rng, shape)
        return rng.standard_normal(shape).astype(np.float32)


def unit_interval(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values in [0, 1), for timesteps."""
    return rng.random(shape, dtype=np.float32)


def cosines(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 cosines of random angles. They serve as sines too: a sample's two tables need not belong to the same angles."""
    return np.cos(rng.uniform(0, 2 * np.pi, shape)).astype(np.float32)
