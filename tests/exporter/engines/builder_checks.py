"""The builder against doubles of TensorRT. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.exporter.engines.builder_checks CHECK
"""

from __future__ import annotations

import sys
from unittest import mock

import tensorrt as trt

from omnigen2_rt.exporter.engines.build import build_engines, engine_list
from omnigen2_rt.exporter.engines.options import BuildOptions
from omnigen2_rt.runtime.backends.tensorrt.library import make_log
from omnigen2_rt.runtime.backends.tensorrt.records import FOLDER
from omnigen2_rt.runtime.errors import Cancelled
from tests.exporter.engines.fake_builder import PLAN, Builder, failure, options, patched, temporary_bundle


def build_creates_a_strongly_typed_network_with_the_planned_profiles() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        report = build_engines(bundle.path, options())
        assert [record.report["attention"] for record in report.built] == ["fused"]
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert builder.network_flags == [strongly_typed] * 2, "to check the graph, and to build"
        assert builder.parsed == [str(bundle.path / "transformer.fp16.onnx")] * 2
        assert builder.config.builder_optimization_level == 2
        assert [profile.shapes["references"] for profile in builder.profiles] == [
            ((1, 0, 32), (1, 0, 32), (1, 0, 32)),
            ((1, 1, 32), (1, 4096, 32), (1, 12288, 32)),
        ]
        assert trt.BuilderFlag.TF32 not in builder.flags
        builder.config.clear_flag.assert_called_once_with(trt.BuilderFlag.TF32)
        assert set(builder.loggers) == {make_log(trt)}, "one logger for all: a library may keep the first"


def plan_is_written_piece_by_piece_and_recorded_with_its_memory() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        (record,) = build_engines(bundle.path, options()).built
        assert (bundle.path / FOLDER / record.plan).read_bytes() == b"".join(PLAN)
        assert record.size_bytes == len(b"".join(PLAN))
        assert (record.report["scratch_bytes"], record.report["weight_bytes"]) == (3000, 4000), "of the largest profile"


def dry_run_builds_nothing_and_shows_what_would_be_reused() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        plan = build_engines(bundle.path, BuildOptions(library="tensorrt", precision="fp16", rope="native", dry_run=True)).plan
        assert builder.builds == 0
        assert "transformer: to build; weights 0 MB + tensors" in plan.text()
        assert "the GPU has 30.00 GB free of 40.00 GB" in plan.text()
        assert "the scratch memory is known after a build" in plan.text()
        build_engines(bundle.path, BuildOptions(library="tensorrt", precision="fp16", rope="native"))
        report = build_engines(bundle.path, BuildOptions(library="tensorrt", precision="fp16", rope="native", dry_run=True))
        assert "transformer: reused" in report.plan.text() and "one scratch of 0.00 GB" in report.plan.text()
        assert (len(report.built), len(report.reused)) == (0, 1)


def missing_fused_attention_falls_back_and_is_reported() -> None:
    builder = Builder(fused=False)
    with temporary_bundle() as bundle, patched(builder):
        report = build_engines(bundle.path, options())
        (record,) = report.built
        assert record.report["attention"] == "decomposable"
        assert "transformer.fp16.onnx: no kernel for attention)" in record.report["notes"][0]
        assert (bundle.path / FOLDER / record.plan).read_bytes() == b"".join(PLAN), "without the first try's bytes"
        assert builder.builds == 2
        assert builder.attention.decomposable is True
        assert "built with decomposable attention instead" in engine_list(bundle.path)[0]


def attention_without_a_fused_kernel_is_decomposable_from_the_start() -> None:
    builder = Builder(fused=False)
    builder.head_width = 8
    with temporary_bundle() as bundle, patched(builder):
        (record,) = build_engines(bundle.path, options()).built
        assert builder.builds == 1
        assert record.report["attention"] == "decomposable"
        assert record.report["notes"] == []


def failed_build_reports_tensorrts_message_and_leaves_nothing() -> None:
    builder = Builder(fused=False)
    with temporary_bundle() as bundle, patched(builder):
        builder.attention = mock.Mock(decomposable=False)
        type(builder.attention).decomposable = mock.PropertyMock(return_value=False)
        assert "transformer: TensorRT can't build transformer.fp16.onnx: no kernel for attention" in failure(bundle.path)
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
            "transformer: TensorRT can't read transformer.fp16.onnx: Attention layers.0.attn: TensorRT only supports Attention "
            "nodes with one output."
        ), message
        assert len(builder.parsed) == 1 and builder.builds == 0, "other build options would not help"
        plan = build_engines(bundle.path, BuildOptions(library="tensorrt", precision="fp16", dry_run=True)).plan
        assert "\n  refused: TensorRT can't read transformer.fp16.onnx: Attention layers.0.attn: " in plan.text()


def progress_that_returns_false_cancels() -> None:
    builder = Builder()
    calls = []

    def progress(done: int, total: int, what: str) -> bool:
        calls.append((done, total, what))
        return what != "transformer: Building"

    with temporary_bundle() as bundle, patched(builder):
        assert failure(bundle.path, Cancelled, progress=progress) == "the build of transformer.fp16.onnx was stopped"
        assert engine_list(bundle.path) == []
        assert calls[:3] == [(0, 1, "transformer: checking"), (0, 1, "transformer"), (0, 2, "transformer: Building")]
        message = failure(bundle.path, Cancelled, progress=lambda done, total, what: what != "transformer")
        assert message == "the build was stopped before transformer"
        message = failure(bundle.path, Cancelled, progress=lambda done, total, what: False)
        assert message == "the build was stopped while transformer was checked"


def progress_that_raises_stops_the_build_and_is_raised() -> None:
    """TensorRT calls it from its own code, prints the exception and goes on; a Ctrl-C would be lost."""

    def progress(done: int, total: int, what: str) -> None:
        if what == "transformer: Building":
            raise KeyboardInterrupt("stop")

    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        assert failure(bundle.path, KeyboardInterrupt, progress=progress) == "stop"
        assert engine_list(bundle.path) == []


def full_disk_stops_the_build_and_is_an_error() -> None:
    """A writer that raises is called from the library's own code, which would print the exception and go on."""
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        full = OSError(28, "No space left on device")
        with mock.patch("omnigen2_rt.exporter.engines.engine_store.NewPlan.write", side_effect=full):
            assert "No space left on device" in failure(bundle.path)
        assert engine_list(bundle.path) == []


def profile_that_the_library_refuses_is_an_error() -> None:
    builder = Builder()
    builder.config.add_optimization_profile.side_effect = lambda profile: -1
    with temporary_bundle() as bundle, patched(builder):
        assert failure(bundle.path) == "transformer: TensorRT refused the profile text of transformer.fp16.onnx"


def config_sets_every_option() -> None:
    builder = Builder()
    with temporary_bundle() as bundle, patched(builder):
        every = options(
            optimization_level=5,
            workspace_bytes=123,
            weight_streaming=True,
            strip_plan=True,
            version_compatible=True,
            hardware_compatibility="ampere_plus",
        )
        build_engines(bundle.path, every)
        flag, config = trt.BuilderFlag, builder.config
        assert {flag.WEIGHT_STREAMING, flag.STRIP_PLAN, flag.VERSION_COMPATIBLE} == set(builder.flags)
        assert config.builder_optimization_level == 5
        assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 123)
        assert [isinstance(monitor, trt.IProgressMonitor) for monitor in builder.monitors] == [True]


def target_of_the_other_library_is_refused() -> None:
    with temporary_bundle() as bundle, patched(Builder()):
        message = failure(bundle.path, options=options(target="sm89"))
        assert message == "target='sm89': TensorRT builds for this machine's GPU; see --hardware-compatibility"


def rope_by_plugin_registers_it_before_the_parser() -> None:
    builder = Builder()
    order: list[str] = []
    builder.before_parse = lambda: order.append("parser")
    with temporary_bundle() as bundle, patched(builder):
        with mock.patch("omnigen2_rt.plugins.omni_rope.plugin.register", lambda: order.append("register")):
            build_engines(bundle.path, options(rope="plugin"))
            assert order == ["register", "parser"] * 2, "to check the graph, and to build"
            order.clear()
            build_engines(bundle.path, options(rope="native"))
            assert order == ["parser"] * 2


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
