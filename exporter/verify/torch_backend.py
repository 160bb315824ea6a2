"""The PyTorch reference as a backend, so that the runtime's own pipeline can run on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...reference.weights import load_mllm, load_transformer, load_vae
from ..checkpoint import Checkpoint
from ..components import COMPONENTS, Component

LOADERS: dict[str, Callable[[Path], Any]] = {"transformer": load_transformer, "vae": load_vae, "mllm": load_mllm}


class TorchBackend:
    """Runs a checkpoint's components on its reference networks in float32, with one network in memory at a time."""

    name = "reference"
    precision = graph_precision = "fp32"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._loaded: dict[str, Any] = {}

    def open(self, component: str) -> TorchSession:
        """See Backend.open."""
        return TorchSession(next(entry for entry in COMPONENTS if entry.name == component), self)

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> torch.Tensor:
        """See Backend.to_device."""
        return torch.from_numpy(np.array(array, dtype))

    def to_host(self, array: torch.Tensor) -> np.ndarray:
        """See Backend.to_host."""
        return np.array(array.numpy())

    def network(self, part: str) -> Any:
        """The network of a part. Loading it frees the one before."""
        if part not in self._loaded:
            self._loaded.clear()
            self._loaded[part] = LOADERS[part](self.checkpoint.path)
        return self._loaded[part]


class TorchSession:
    """One component on its reference network."""

    def __init__(self, component: Component, backend: TorchBackend) -> None:
        self._component = component
        self._backend = backend

    def run(self, feeds: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, torch.Tensor]:
        """See Session.run."""
        config = self._backend.checkpoint.config_of(self._component)
        inputs = [torch.as_tensor(feeds[name]) for name in self._component.inputs(config)]
        with torch.no_grad():
            outputs = self._component.forward(self._backend.network(self._component.part), *inputs)
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(self._component.outputs(config), values, strict=True))
