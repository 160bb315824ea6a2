"""The builder against doubles of TensorRT. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.engines.builder_checks CHECK
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import tensorrt as trt

from omnigen2_rt.exporter import build, engine
from omnigen2_rt.exporter.build import BuildOptions, build_engines, engine_list
from omnigen2_rt.exporter.engine import EngineOptions, build_engine, make_config, make_monitor
from omnigen2_rt.exporter.engine_profiles import Limits, engine_profiles
from omnigen2_rt.runtime.errors import Cancelled, ExportError
from tests.engines.made_bundle import MACHINE, make_bundle

PARSER = trt.OnnxParser  # the real class, which `patched` hides
LEVEL = EngineOptions(optimization_level=2)


class Builder:
    """Doubles of builder, network, configuration and parser. `fused`: whether attention has a fused kernel."""

    def __init__(self, fused: bool = True) -> None:
        self.fused = fused
        self.profiles: list[Any] = []
        self.flags: list[Any] = []
        self.network_flags: list[int] = []
        self.parsed: list[str] = []
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
        made = mock.create_autospec(trt.IOptimizationProfile, instance=True)
        made.shapes = {}
        made.set_shape.side_effect = lambda name, *shapes: made.shapes.update({name: shapes})
        made.__bool__ = lambda self: True
        return made

    def parser(self, network: Any, logger: Any) -> Any:
        made = mock.create_autospec(PARSER, instance=True)
        made.parse_from_file.side_effect = lambda path: self.parsed.append(path) is None
        made.num_errors = 0
        return made

    def build(self, network: Any, config: Any) -> bytes | None:
        self.builds += 1
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
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(trt, "Builder", lambda logger: builder.double))
        stack.enter_context(mock.patch.object(trt, "OnnxParser", builder.parser))
        stack.enter_context(mock.patch.object(trt, "init_libnvinfer_plugins", lambda logger, namespace: True))
        # It prints every field of a configuration, with arithmetic on some: nothing that a double could answer.
        stack.enter_context(mock.patch("polygraphy.backend.trt.util.str_from_config", lambda config, network: ""))
        stack.enter_context(mock.patch.object(build, "_machine", lambda: (MACHINE, None)))
        stack.enter_context(mock.patch("omnigen2_rt.exporter.engine.import_tensorrt", lambda: trt))
        yield


@contextmanager
def bundle() -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_bundle(Path(folder) / "bundle")


def options(**changed: Any) -> BuildOptions:
    return BuildOptions(precision="fp16", rope="native", engine=EngineOptions(optimization_level=2, **changed))


def build_asks_for_a_strongly_typed_network_with_the_planned_profiles() -> None:
    builder = Builder()
    with bundle() as made, patched(builder):
        report = build_engines(made.path, options())
        assert [record.report["attention"] for record in report.built] == ["fused"]
        assert builder.network_flags == [1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)]
        assert builder.parsed == [str(made.path / "transformer.fp16.onnx")]
        assert builder.config.builder_optimization_level == 2
        assert [profile.shapes["references"] for profile in builder.profiles] == [
            ((1, 0, 32), (1, 0, 32), (1, 0, 32)),
            ((1, 1, 32), (1, 4096, 32), (1, 12288, 32)),
        ]
        assert trt.BuilderFlag.TF32 not in builder.flags


def build_is_reused_and_each_option_builds_anew() -> None:
    builder = Builder()
    with bundle() as made, patched(builder):
        assert len(build_engines(made.path, options()).built) == 1
        again = build_engines(made.path, options())
        assert (len(again.built), len(again.reused), builder.builds) == (0, 1, 1)
        changes: list[dict[str, Any]] = [
            {"weight_streaming": True},
            {"strip_plan": True},
            {"version_compatible": True},
            {"hardware_compatibility": "ampere_plus"},
            {"workspace_bytes": 10**6},
            {"decomposable_attention": True},
        ]
        for number, changed in enumerate(changes):
            assert len(build_engines(made.path, options(**changed)).built) == 1, changed
            assert builder.builds == 2 + number
        limits = BuildOptions(precision="fp16", rope="native", limits=Limits(max_references=1))
        assert len(build_engines(made.path, limits).built) == 1
        assert len(engine_list(made.path)) == 2 + len(changes)


def dry_run_builds_nothing_and_says_what_would_be_reused() -> None:
    builder = Builder()
    with bundle() as made, patched(builder):
        planned = build_engines(made.path, BuildOptions(precision="fp16", rope="native", dry_run=True))
        assert builder.builds == 0
        assert "transformer: to build; weights 0 MB + tensors" in planned.plan_text()
        build_engines(made.path, BuildOptions(precision="fp16", rope="native"))
        planned = build_engines(made.path, BuildOptions(precision="fp16", rope="native", dry_run=True))
        assert "transformer: reused" in planned.plan_text()


def missing_fused_attention_falls_back_and_is_reported() -> None:
    builder = Builder(fused=False)
    with bundle() as made, patched(builder):
        report = build_engines(made.path, options())
        (record,) = report.built
        assert record.report["attention"] == "decomposable"
        assert "no kernel for" in record.report["notes"][0]
        assert builder.builds == 2
        assert builder.attention.decomposable is True
        assert "built with decomposable attention instead" in engine_list(made.path)[0]


def wide_attention_is_decomposable_from_the_start() -> None:
    builder = Builder(fused=False)
    with bundle() as made, patched(builder), mock.patch.object(engine, "lacks_fused_attention", lambda *given: True):
        (record,) = build_engines(made.path, options()).built
        assert builder.builds == 1
        assert record.report["notes"] == []


def build_that_fails_tells_tensorrts_words_and_leaves_nothing() -> None:
    builder = Builder(fused=False)
    with bundle() as made, patched(builder):
        builder.attention = mock.Mock(decomposable=False)
        type(builder.attention).decomposable = mock.PropertyMock(return_value=False)
        try:
            build_engines(made.path, options())
        except ExportError as error:
            assert "TensorRT can't build transformer.fp16.onnx: no kernel for" in str(error), error
        else:
            raise AssertionError("no error")
        assert engine_list(made.path) == []


def progress_that_returns_false_cancels() -> None:
    builder = Builder()
    told = []

    def progress(what: str, done: int, total: int) -> bool:
        told.append((what, done, total))
        return ": " not in what

    with bundle() as made, patched(builder):
        try:
            build_engines(made.path, options(), progress)
        except Cancelled:
            pass
        else:
            raise AssertionError("not cancelled")
        assert engine_list(made.path) == []
        assert told[:2] == [("transformer", 0, 1), ("transformer: Building", 0, 2)]


def config_sets_what_was_asked() -> None:
    builder = Builder()
    with bundle() as made, patched(builder):
        profiles = engine_profiles(made.manifest.graphs[0], made.manifest, Limits())
        wanted = EngineOptions(
            optimization_level=5,
            workspace_bytes=123,
            weight_streaming=True,
            strip_plan=True,
            version_compatible=True,
            hardware_compatibility="ampere_plus",
        )
        network = builder.network(0)
        monitor = make_monitor(lambda what, done, total: None)
        config = make_config(profiles, wanted, None, monitor)(builder.double, network)
        flag = trt.BuilderFlag
        assert {flag.WEIGHT_STREAMING, flag.STRIP_PLAN, flag.VERSION_COMPATIBLE} <= set(builder.flags)
        assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 123)
        assert config.progress_monitor is monitor


def rope_by_plugin_registers_it_before_the_parser() -> None:
    builder = Builder()
    order: list[str] = []
    with bundle() as made, patched(builder):
        real = builder.parser

        def parser(network: Any, logger: Any) -> Any:
            order.append("parser")
            return real(network, logger)

        profiles = engine_profiles(made.manifest.graphs[0], made.manifest, Limits())
        with mock.patch.object(trt, "OnnxParser", parser):
            with mock.patch("omnigen2_rt.plugins.omni_rope.plugin.register", lambda: order.append("register")):
                build_engine(made.path / "transformer.fp16.onnx", "fp16", profiles, LEVEL, rope="plugin")
    assert order == ["register", "parser"]


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
