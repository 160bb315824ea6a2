"""A backend of either library on doubles of the library and of CUDA, with a small bundle and stored engines.

Of use only where the library can be imported; TensorRT can be with stub libraries (`tests/tensorrt_stubs.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from omnigen2_rt.exporter.engines.options import EngineOptions
from omnigen2_rt.runtime.backends.tensorrt import LIBRARIES
from omnigen2_rt.runtime.backends.tensorrt.backend import TensorRTBackend
from omnigen2_rt.runtime.backends.tensorrt.engines import make_key
from omnigen2_rt.runtime.backends.tensorrt.records import EngineRecord
from omnigen2_rt.runtime.errors import BackendError
from tests.exporter.engines.fake_cuda import FakeCuda, fake_cuda
from tests.exporter.engines.fake_tensorrt import LANGUAGE_MODEL, TRANSFORMER, Engine, Plan, fake_runtime
from tests.exporter.engines.small_bundle import GRAPHS, HIDDEN, make_bundle, store_plan

PLANS = {"transformer": TRANSFORMER, "velocity_head": TRANSFORMER, "language_model": LANGUAGE_MODEL}
ROPES = {"tensorrt": "plugin", "tensorrt-rtx": "native"}
CAPABILITIES = {"tensorrt": (9, 0), "tensorrt-rtx": (8, 9)}
"""The compute capability of the GPU by library: TensorRT for RTX runs on none of 9.0."""


class EngineSetup:
    """A bundle with stored engines, fake CUDA, fake engines and the backend on them.

    library: the name of the library.
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
        library: str = "tensorrt",
        capability: tuple[int, int] | None = None,
        specialization: str = "lazy",
        **options: object,
    ) -> None:
        self.library = LIBRARIES[library]
        self.trt = self.library.load()
        self.cuda = FakeCuda(capability or CAPABILITIES[library])
        self.streams_weights, self.limit, self.specialization = streams_weights, limit, specialization
        self.bundle = make_bundle(folder / "bundle", graphs={name: GRAPHS[name]() for name in components})
        self.engines = {name: Engine(self.trt, self.cuda, plans[name], streamable) for name in components}
        self.engine = self.engines[components[0]]
        self.runtime = fake_runtime({f"plan of {name}".encode(): engine for name, engine in self.engines.items()})
        with fake_cuda(self.cuda):
            self.records = {name: self.store(name, options) for name in components}
        self.backend = self.open_backend()

    def open_backend(self) -> TensorRTBackend:
        """A backend as a new process has it."""
        with fake_cuda(self.cuda), mock.patch.object(self.trt, "Runtime", self.runtime):
            return TensorRTBackend(
                self.library,
                self.bundle,
                "fp16",
                self.streams_weights,
                self.limit,
                specialization=self.specialization,
            )

    def store(self, component: str, options: dict[str, Any]) -> EngineRecord:
        machine = self.library.machine()
        graph = self.bundle.graph(component, "fp16")
        profiles = [{"name": "text", "shapes": {"image_tokens": [[1, 1, 32], [1, 4, 32], [1, 9, 32]]}}]
        rope, settings = ROPES[self.library.name], EngineOptions(**options).to_json()
        key = make_key(self.bundle, graph, machine, rope=rope, profiles=profiles, options=settings)
        return store_plan(self.bundle.path, key, f"plan of {component}".encode())

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
