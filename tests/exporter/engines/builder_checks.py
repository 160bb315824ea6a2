"""The builder against doubles of TensorRT. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.exporter.engines.builder_checks CHECK
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import tensorrt as trt

from omnigen2_rt.exporter.engines.build import build_engines, engine_list
from omnigen2_rt.exporter.engines.options import BuildOptions, EngineOptions, Limits
from omnigen2_rt.exporter.engines.profiles import engine_profiles
from omnigen2_rt.exporter.engines.progress_monitor import make_monitor
from omnigen2_rt.exporter.engines.tensorrt_builder import build_engine, make_config
from omnigen2_rt.runtime.errors import Cancelled
from omnigen2_rt.runtime.progress import no_progress
from tests.exporter.engines.fake_builder import Builder, failure, options, patched, temporary_bundle
from tests.exporter.engines.small_bundle import attention_graph

LEVEL = EngineOptions(optimization_level=2)


def build_creates_a_strongly_typed_network_with_the_planned_profiles() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        report = build_engines(bundle.path, options())
        assert [record.report["attention"] for record in report.built] == ["fused"]
        assert builder.network_flags == [1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)]
        assert builder.parsed == [str(bundle.path / "transformer.fp16.onnx")]
        assert builder.config.builder_optimization_level == 2
        assert [profile.shapes["references"] for profile in builder.profiles] == [
            ((1, 0, 32), (1, 0, 32), (1, 0, 32)),
            ((1, 1, 32), (1, 4096, 32), (1, 12288, 32)),
        ]
        assert trt.BuilderFlag.TF32 not in builder.flags


def dry_run_builds_nothing_and_shows_what_would_be_reused() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        plan = build_engines(bundle.path, BuildOptions(precision="fp16", rope="native", dry_run=True)).plan
        assert builder.builds == 0
        assert "transformer: to build; weights 0 MB + tensors" in plan.text()
        assert "the GPU has 30.00 GB free of 40.00 GB" in plan.text()
        build_engines(bundle.path, BuildOptions(precision="fp16", rope="native"))
        report = build_engines(bundle.path, BuildOptions(precision="fp16", rope="native", dry_run=True))
        assert "transformer: reused" in report.plan.text()
        assert (len(report.built), len(report.reused)) == (0, 1)


def missing_fused_attention_falls_back_and_is_reported() -> None:
    builder = Builder(fused=False)
    with temporary_bundle() as bundle, patched(builder):
        report = build_engines(bundle.path, options())
        (record,) = report.built
        assert record.report["attention"] == "decomposable"
        assert "no kernel for" in record.report["notes"][0]
        assert builder.builds == 2
        assert builder.attention.decomposable is True
        assert "built with decomposable attention instead" in engine_list(bundle.path)[0]


def attention_without_a_fused_kernel_is_decomposable_from_the_start() -> None:
    builder = Builder(fused=False)
    graphs = {"transformer": attention_graph(heads=4)}  # 8 wide
    with temporary_bundle(graphs=graphs) as bundle, patched(builder):
        (record,) = build_engines(bundle.path, options()).built
        assert builder.builds == 1
        assert record.report["attention"] == "decomposable"
        assert record.report["notes"] == []


def failed_build_reports_tensorrts_message_and_leaves_nothing() -> None:
    builder = Builder(fused=False)
    with temporary_bundle() as bundle, patched(builder):
        builder.attention = mock.Mock(decomposable=False)
        type(builder.attention).decomposable = mock.PropertyMock(return_value=False)
        assert "TensorRT can't build transformer.fp16.onnx: no kernel for" in failure(bundle.path)
        assert engine_list(bundle.path) == []


def graph_that_the_parser_refuses_is_an_error_with_its_nodes() -> None:
    builder = Builder()
    parser_error = mock.create_autospec(trt.ParserError, instance=True)
    parser_error.node.return_value = 7
    parser_error.node_operator.return_value = "Attention"
    parser_error.node_name.return_value = "layers.0.attn"
    parser_error.desc.return_value = "TensorRT only supports Attention nodes\nwith one output."
    builder.refused = [parser_error]
    with temporary_bundle() as bundle, patched(builder):
        message = failure(bundle.path)
        assert message == (
            "TensorRT can't read transformer.fp16.onnx: Attention layers.0.attn: TensorRT only supports Attention nodes "
            "with one output."
        ), message
        assert len(builder.parsed) == 1, "other build options would not help"
        recorders = builder.recorders
        assert recorders[0] is recorders[1] and isinstance(recorders[0], trt.IErrorRecorder)


def progress_that_returns_false_cancels() -> None:
    builder = Builder()
    calls = []

    def progress(done: int, total: int, what: str) -> bool:
        calls.append((done, total, what))
        return ": " not in what

    with temporary_bundle() as bundle, patched(builder):
        assert failure(bundle.path, Cancelled, progress=progress) == "the build of transformer.fp16.onnx was stopped"
        assert engine_list(bundle.path) == []
        assert calls[:2] == [(0, 1, "transformer"), (0, 2, "transformer: Building")]
        message = failure(bundle.path, Cancelled, progress=lambda done, total, what: False)
        assert message == "the build was stopped before transformer"


def progress_that_raises_stops_the_build_and_is_raised() -> None:
    """TensorRT calls it from its own code, prints the exception and goes on; a Ctrl-C would be lost."""

    def progress(done: int, total: int, what: str) -> None:
        if ": " in what:
            raise KeyboardInterrupt("stop")

    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        assert failure(bundle.path, KeyboardInterrupt, progress=progress) == "stop"
        assert engine_list(bundle.path) == []


def config_sets_every_option() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        profiles = engine_profiles(bundle.manifest.graphs[0], bundle.manifest, Limits())
        all_options = EngineOptions(
            optimization_level=5,
            workspace_bytes=123,
            weight_streaming=True,
            strip_plan=True,
            version_compatible=True,
            hardware_compatibility="ampere_plus",
        )
        network = builder.network(0)
        monitor = make_monitor(no_progress)
        config = make_config(profiles, all_options, None, monitor)(builder.double, network)
        flag = trt.BuilderFlag
        assert {flag.WEIGHT_STREAMING, flag.STRIP_PLAN, flag.VERSION_COMPATIBLE} <= set(builder.flags)
        assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 123)
        assert config.progress_monitor is monitor


def rope_by_plugin_registers_it_before_the_parser() -> None:
    builder = Builder()
    order: list[str] = []
    with temporary_bundle() as bundle, patched(builder):

        def parser(network: Any, logger: Any) -> Any:
            order.append("parser")
            return builder.parser(network, logger)

        profiles = engine_profiles(bundle.manifest.graphs[0], bundle.manifest, Limits())
        with mock.patch.object(trt, "OnnxParser", parser):
            with mock.patch("omnigen2_rt.plugins.omni_rope.plugin.register", lambda: order.append("register")):
                build_engine(bundle.path / "transformer.fp16.onnx", "fp16", profiles, LEVEL, rope="plugin")
    assert order == ["register", "parser"]


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
