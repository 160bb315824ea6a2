"""A TensorRT backend on doubles of TensorRT and CUDA, with a small bundle and stored engines.

Imported only where `import tensorrt` works, with stub libraries (`tests/tensorrt_stubs.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorrt as trt

from omnigen2_rt.exporter.engines.engine_store import store_engine
from omnigen2_rt.exporter.engines.options import EngineOptions
from omnigen2_rt.runtime.backends.tensorrt import backend as tensorrt
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library
from omnigen2_rt.runtime.backends.tensorrt.engines import make_key
from omnigen2_rt.runtime.errors import BackendError
from tests.exporter.engines.fake_cuda import FakeCuda, fake_cuda
from tests.exporter.engines.fake_tensorrt import LANGUAGE_MODEL, TRANSFORMER, Engine, Plan, fake_runtime
from tests.exporter.engines.small_bundle import GRAPHS, HIDDEN, make_bundle

PLANS = {"transformer": TRANSFORMER, "velocity_head": TRANSFORMER, "language_model": LANGUAGE_MODEL}


class EngineSetup:
    """A bundle with stored engines, fake CUDA, fake engines and the backend on them.

    engine: the first component's.
    """

    def __init__(
        self,
        folder: Path,
        components: tuple[str, ...] = ("transformer",),
        streams_weights: bool = False,
        limit: int | None = None,
        streamable: int = 0,
        plans: dict[str, Plan] = PLANS,
        **options: object,
    ) -> None:
        self.cuda = FakeCuda()
        self.bundle = make_bundle(folder / "bundle", graphs={name: GRAPHS[name]() for name in components})
        self.engines = {name: Engine(self.cuda, plans[name], streamable) for name in components}
        self.engine = self.engines[components[0]]
        self.runtime = fake_runtime({f"plan of {name}".encode(): engine for name, engine in self.engines.items()})
        with fake_cuda(self.cuda), mock.patch.object(trt, "Runtime", self.runtime):
            for name in components:
                self.store(name, options)
            self.backend = tensorrt.TensorRTBackend(self.bundle, "fp16", streams_weights, limit)

    def store(self, component: str, options: dict[str, Any]) -> None:
        machine = tensorrt_library.this_machine()
        graph = self.bundle.graph(component, "fp16")
        profiles = [{"name": "text", "shapes": {"image_tokens": [[1, 1, 32], [1, 4, 32], [1, 9, 32]]}}]
        key = make_key(self.bundle, graph, machine, rope="plugin", profiles=profiles, options=EngineOptions(**options).to_json())
        store_engine(self.bundle.path, key, f"plan of {component}".encode(), {})

    def feeds(self, tokens: int = 4, references: int = 0, value: float = 1.5) -> dict[str, np.ndarray]:
        return {
            "references": np.zeros((1, references, HIDDEN), np.float32),
            "image_tokens": np.full((1, tokens, HIDDEN), value, np.float32),
        }

    def run(self, session: Any, **sizes: Any) -> float:
        """The first value of a run's output."""
        return float(self.backend.to_host(session.run(self.feeds(**sizes))["hidden_states"])[0, 0, 0])


@contextmanager
def engine_setup(**settings: Any) -> Iterator[EngineSetup]:
    with tempfile.TemporaryDirectory() as folder:
        yield EngineSetup(Path(folder), **settings)


@contextmanager
def fails(text: str) -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        assert text in str(error), str(error)
        return
    raise AssertionError(f"no error with {text!r}")
