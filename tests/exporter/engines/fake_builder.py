"""Doubles of TensorRT's builder, specified by the real classes, and a bundle to build from.

Imported only where `import tensorrt` works, with stub libraries (`tests/tensorrt_stubs.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import tensorrt as trt

from omnigen2_rt.exporter.engines.build import build_engines
from omnigen2_rt.exporter.engines.options import BuildOptions, EngineOptions
from omnigen2_rt.exporter.engines.standard import StandardBuilder
from omnigen2_rt.runtime.backends.tensorrt.standard import TensorRT
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.engines.fake_cuda import FakeCuda, fake_cuda
from tests.exporter.engines.small_bundle import MACHINE, make_bundle

PARSER = trt.OnnxParser  # the real class, which `patched` hides
PLAN = (b"the first ", b"and the last ", b"piece")
"""The pieces in which an engine is written."""


class Builder:
    """Doubles of builder, network, configuration and parser.

    fused: whether attention has a fused kernel.
    refused: the parser's errors.
    before_parse, before_build: called when the parser or a build starts.
    loggers: those that builder and parser were given.
    monitors: the progress monitors of the builds.
    """

    def __init__(self, fused: bool = True) -> None:
        self.fused = fused
        self.head_width = 16
        self.profiles: list[Any] = []
        self.flags: list[Any] = []
        self.network_flags: list[int] = []
        self.parsed: list[str] = []
        self.refused: list[Any] = []
        self.loggers: list[Any] = []
        self.monitors: list[Any] = []
        self.before_parse: Callable[[], object] = lambda: None
        self.before_build: Callable[[], object] = lambda: None
        self.builds = 0
        self.attention = mock.create_autospec(trt.IAttention, instance=True)
        self.attention.decomposable = False
        self.config = mock.create_autospec(trt.IBuilderConfig, instance=True)
        self.config.set_flag.side_effect = self.flags.append
        self.config.add_optimization_profile.side_effect = self.add_profile
        self.config.get_timing_cache.return_value = None
        self.config.num_optimization_profiles = 1
        self.double = mock.create_autospec(trt.Builder, instance=True)
        self.double.create_network.side_effect = self.network
        self.double.create_builder_config.return_value = self.config
        self.double.create_optimization_profile.side_effect = self.profile
        self.double.build_serialized_network_to_stream.side_effect = self.build

    def create(self, logger: Any) -> Any:
        """Replaces the class trt.Builder."""
        self.loggers.append(logger)
        return self.double

    def network(self, flags: int) -> Any:
        self.network_flags.append(flags)
        network = mock.create_autospec(trt.INetworkDefinition, instance=True)
        network.num_layers = 1
        network.get_layer.side_effect = lambda index: Layer(self.attention, self.head_width)
        return network

    def profile(self) -> Any:
        profile = mock.create_autospec(trt.IOptimizationProfile, instance=True)
        profile.shapes = {}
        profile.set_shape.side_effect = lambda name, *shapes: profile.shapes.update({name: shapes})
        return profile

    def add_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def parser(self, network: Any, logger: Any) -> Any:
        self.loggers.append(logger)
        self.before_parse()
        parser = mock.create_autospec(PARSER, instance=True)
        parser.parse_from_file.side_effect = lambda path: self.parsed.append(path) is None and not self.refused
        parser.num_errors = len(self.refused)
        parser.get_error.side_effect = self.refused.__getitem__
        return parser

    def build(self, network: Any, config: Any, writer: Any) -> bool:
        assert isinstance(writer, trt.IStreamWriter)
        self.builds += 1
        self.before_build()
        monitor, log = config.progress_monitor, self.loggers[-1].log
        self.monitors.append(monitor)
        monitor.phase_start("Building", None, 2)
        if not monitor.step_complete("Building", 0):
            return False
        for profile, nbytes in enumerate((2000, 3000)):
            log(trt.ILogger.Severity.INFO, f"Max Scratch Memory: {nbytes} bytes (profile {profile})")
        log(trt.ILogger.Severity.INFO, "Total Weights Memory: 4000 bytes")
        if not self.fused and not self.attention.decomposable:
            writer.write(b"of no use")
            log(trt.ILogger.Severity.ERROR, "[attention.cpp::run::1] no kernel for\nattention")
            return False
        monitor.phase_finish("Building")
        return all(writer.write(piece) == len(piece) for piece in PLAN)


class Layer:
    """Our code sets a layer's class by hand, which a mock of a real layer doesn't allow."""

    type = trt.LayerType.ATTENTION_INPUT

    def __init__(self, attention: Any, width: int) -> None:
        query = mock.create_autospec(trt.ITensor, instance=True)
        query.dtype, query.shape = trt.DataType.HALF, (-1, 2, -1, width)
        self.__dict__.update(attention=attention, get_input={0: query}.__getitem__)

    def __setattr__(self, name: str, value: Any) -> None:
        assert (name, value) == ("__class__", trt.IAttentionInputLayer)


@contextmanager
def patched(builder: Builder) -> Iterator[None]:
    """TensorRT and CUDA replaced by doubles, on the machine MACHINE."""
    with ExitStack() as stack:
        stack.enter_context(fake_cuda(FakeCuda()))
        stack.enter_context(mock.patch.object(trt, "Builder", builder.create))
        stack.enter_context(mock.patch.object(trt, "OnnxParser", builder.parser))
        stack.enter_context(mock.patch.object(StandardBuilder, "problem", lambda self, rope: None))
        stack.enter_context(mock.patch.object(TensorRT, "machine", lambda self, device=None: MACHINE))
        stack.enter_context(mock.patch("omnigen2_rt.plugins.omni_rope.plugin.register", lambda: None))
        yield


@contextmanager
def temporary_bundle(**settings: Any) -> Iterator[Bundle]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_bundle(Path(folder) / "bundle", **settings)


def options(rope: str = "native", **engine: Any) -> BuildOptions:
    engine = {"optimization_level": 2, **engine}
    return BuildOptions(library="tensorrt", precision="fp16", rope=rope, engine=EngineOptions(**engine))


def failure(path: Path, error_class: type[BaseException] = ExportError, **arguments: Any) -> str:
    """The message of the error with which a build fails."""
    try:
        build_engines(path, arguments.pop("options", options()), **arguments)
    except error_class as error:
        return str(error)
    raise AssertionError("no error")
