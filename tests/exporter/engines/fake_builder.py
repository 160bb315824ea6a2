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
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.engines.fake_cuda import FakeCuda, fake_cuda
from tests.exporter.engines.small_bundle import MACHINE, make_bundle

PARSER = trt.OnnxParser  # the real class, which `patched` hides


class Builder:
    """Doubles of builder, network, configuration and parser.

    fused: whether attention has a fused kernel.
    refused: the parser's errors.
    """

    def __init__(self, fused: bool = True) -> None:
        self.fused = fused
        self.profiles: list[Any] = []
        self.flags: list[Any] = []
        self.network_flags: list[int] = []
        self.parsed: list[str] = []
        self.refused: list[Any] = []
        self.recorders: list[Any] = []
        self.before_build: Callable[[], object] = lambda: None
        self.builds = 0
        self.attention = mock.create_autospec(trt.IAttention, instance=True)
        self.attention.decomposable = False
        self.config = mock.create_autospec(trt.IBuilderConfig, instance=True)
        self.config.set_flag.side_effect = self.flags.append
        self.config.add_optimization_profile.side_effect = self.profiles.append
        self.config.get_timing_cache.return_value = None
        self.config.num_optimization_profiles = 1
        self.double = mock.create_autospec(trt.Builder, instance=True)
        self.double.create_network.side_effect = self.network
        self.double.create_builder_config.return_value = self.config
        self.double.create_optimization_profile.side_effect = self.profile
        self.double.build_serialized_network.side_effect = self.build

    def network(self, flags: int) -> Any:
        self.network_flags.append(flags)
        network = mock.create_autospec(trt.INetworkDefinition, instance=True)
        network.num_layers, network.num_inputs, network.num_outputs = 1, 2, 1
        inputs = {"references": (1, -1, 32), "image_tokens": (-1, -1, 32)}
        tensors = []
        for name, shape in inputs.items():
            tensor = mock.create_autospec(trt.ITensor, instance=True)
            tensor.name, tensor.shape, tensor.is_shape_tensor, tensor.dtype = name, shape, False, trt.DataType.HALF
            tensors.append(tensor)
        network.get_input.side_effect = tensors.__getitem__
        network.__getitem__.side_effect = IndexError  # polygraphy iterates over the layers
        network.get_layer.side_effect = lambda index: Layer(self.attention)
        return network

    def profile(self) -> Any:
        profile = mock.create_autospec(trt.IOptimizationProfile, instance=True)
        profile.shapes = {}
        profile.set_shape.side_effect = lambda name, *shapes: profile.shapes.update({name: shapes})
        profile.__bool__ = lambda self: True
        return profile

    def parser(self, network: Any, logger: Any) -> Any:
        self.recorders = [self.double.error_recorder, network.error_recorder]
        parser = mock.create_autospec(PARSER, instance=True)
        parser.parse_from_file.side_effect = lambda path: self.parsed.append(path) is None and not self.refused
        parser.num_errors = len(self.refused)
        parser.get_error.side_effect = self.refused.__getitem__
        return parser

    def build(self, network: Any, config: Any) -> bytes | None:
        self.builds += 1
        self.before_build()
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        if not monitor.step_complete("Building", 0):
            return None
        if not self.fused and not self.attention.decomposable:
            self.double.error_recorder.report_error(trt.ErrorCodeTRT.UNSUPPORTED_STATE, "no kernel for\nattention")
            return None
        monitor.phase_finish("Building")
        return b"plan"


class Layer:
    """polygraphy sets a layer's class by hand, which a mock of a real layer doesn't allow."""

    type = trt.LayerType.ATTENTION_INPUT

    def __init__(self, attention: Any) -> None:
        self.__dict__["attention"] = attention

    def __setattr__(self, name: str, value: Any) -> None:
        assert (name, value) == ("__class__", trt.IAttentionInputLayer)


@contextmanager
def patched(builder: Builder) -> Iterator[None]:
    """TensorRT and CUDA replaced by doubles, on the machine MACHINE."""
    with ExitStack() as stack:
        stack.enter_context(fake_cuda(FakeCuda()))
        stack.enter_context(mock.patch.object(trt, "Builder", lambda logger: builder.double))
        stack.enter_context(mock.patch.object(trt, "OnnxParser", builder.parser))
        # It formats every field of a configuration, and computes with some; a double has no values for them.
        stack.enter_context(mock.patch("polygraphy.backend.trt.util.str_from_config", lambda config, network: ""))
        stack.enter_context(mock.patch.object(tensorrt_library, "build_problem", lambda rope: None))
        stack.enter_context(mock.patch.object(tensorrt_library, "this_machine", lambda: MACHINE))
        stack.enter_context(mock.patch("omnigen2_rt.plugins.omni_rope.plugin.register", lambda: None))
        yield


@contextmanager
def temporary_bundle(**settings: Any) -> Iterator[Bundle]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_bundle(Path(folder) / "bundle", **settings)


def options(rope: str = "native", **engine: Any) -> BuildOptions:
    return BuildOptions(precision="fp16", rope=rope, engine=EngineOptions(optimization_level=2, **engine))


def failure(path: Path, error_class: type[BaseException] = ExportError, **arguments: Any) -> str:
    """The message of the error with which a build fails."""
    try:
        build_engines(path, arguments.pop("options", options()), **arguments)
    except error_class as error:
        return str(error)
    raise AssertionError("no error")
