"""Builds with the real TensorRT for RTX: every graph of the model that ships, on a machine without a GPU."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.engines.build import BuildReport, build_engines, prune_engines
from omnigen2_rt.exporter.engines.builders import BUILDERS
from omnigen2_rt.exporter.engines.engine_builder import BuiltEngine
from omnigen2_rt.exporter.engines.options import BuildOptions, EngineOptions, Limits
from omnigen2_rt.exporter.engines.profiles import engine_profiles
from omnigen2_rt.runtime.backends.tensorrt import LIBRARIES
from omnigen2_rt.runtime.backends.tensorrt.library import make_log, take_errors
from omnigen2_rt.runtime.backends.tensorrt.records import FOLDER, TARGETS
from omnigen2_rt.runtime.backends.tensorrt.rtx import REASONS
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import Cancelled, ExportError
from tests.exporter.engines.small_bundle import HIDDEN, antialiasing_graph, attention_graph, make_bundle
from tests.rtx_library import needs_rtx

pytestmark = needs_rtx

ROOT = Path(__file__).resolve().parents[3]
NANO = ROOT / "nano" / "checkpoint"
SMALL = Limits(max_size_px=64, typical_size_px=64, max_references=1, max_prompt_tokens=64)
WITH_ATTENTION = {"language_model", "vision_encoder", "context_refiner", "reference_embedder", "latent_embedder", "transformer"}
MIB = 2**20
VAE = {"vae_encoder", "vae_decoder"}
HAS_GPU = LIBRARIES["tensorrt-rtx"].gpu_problem() is None


def options(precision: str = "fp16", *components: str, library: str = "tensorrt-rtx", **engine: Any) -> BuildOptions:
    return BuildOptions(
        library=library, precision=precision, components=components, limits=SMALL, engine=EngineOptions(**engine)
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of every file but locks, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtx") / "nano"
    shutil.copytree(NANO, folder)
    return folder


@pytest.fixture(scope="module")
def reports(nano: Path) -> dict[str, BuildReport]:
    return {"bf16": build_engines(nano, options("bf16"))}


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_every_component_of_nano_builds_with_the_attention_that_is_expected(
    reports: dict[str, BuildReport], nano: Path, precision: str
) -> None:
    built = (reports.get(precision) or build_engines(nano, options(precision))).built
    attention = {record.key["component"]: record.report["attention"] for record in built}
    kind = "fused" if precision == "bf16" else "decomposable"
    expected = {component.name: "none" for component in COMPONENTS}
    expected |= dict.fromkeys(WITH_ATTENTION, kind) | dict.fromkeys(VAE, "decomposable")
    assert attention == expected
    for record in built:
        assert record.report["notes"] == [], f"{record.name} took a second try"
        assert record.report["scratch_bytes"] is not None and record.size_bytes > record.report["weight_bytes"]


def test_portable_engine_is_bound_to_the_library_alone(reports: dict[str, BuildReport]) -> None:
    for record in reports["bf16"].built:
        assert record.key["options"]["target"] == "portable"
        assert (record.key["library"], record.key["rope"]) == ("tensorrt-rtx", "native")
        assert [record.key[part] for part in ("gpu", "compute_capability", "driver", "plugin", "triton")] == [None] * 5


def test_two_builds_give_the_same_bytes(reports: dict[str, BuildReport], nano: Path, tmp_path: Path) -> None:
    shutil.copytree(NANO, tmp_path / "again")
    (again,) = build_engines(tmp_path / "again", options("bf16", "context_refiner")).built
    (first,) = (record for record in reports["bf16"].built if record.key["component"] == "context_refiner")
    assert (again.plan, again.sha256) == (first.plan, first.sha256)


def test_stored_engines_are_reused_and_none_is_pruned(reports: dict[str, BuildReport], nano: Path) -> None:
    again = build_engines(nano, options("bf16"))
    assert (again.built, len(again.reused)) == ((), len(reports["bf16"].built))
    assert prune_engines(nano) == ([], 0)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU, whose answer differs")
def test_plans_header_is_read_without_a_driver(reports: dict[str, BuildReport], nano: Path) -> None:
    """The library can't say that a plan is valid here; it says that a plan is damaged, from the header's first fields alone."""
    library = LIBRARIES["tensorrt-rtx"]
    trt = library.load()
    plan = (nano / FOLDER / reports["bf16"].built[0].plan).read_bytes()
    runtime, damaged = trt.Runtime(make_log(trt)), int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    altered = bytes([plan[0] ^ 255]) + plan[1:]
    answers = [runtime.get_engine_validity(content) for content in (plan, plan[:64], plan[:32], altered)]
    assert answers == [(trt.EngineValidity.INVALID, found) for found in (0, 0, damaged, damaged)]
    assert "(cudaError 35" in take_errors(make_log(trt))
    assert library.refusal(runtime, memoryview(altered)) == REASONS["MALFORMED_ENGINE"]


class Sizes:
    """Forgets a plan, and keeps the size of every write."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))

    def restart(self) -> None:
        self.sizes.clear()


def build_into(plan: Any, bundle: Path, component: str) -> BuiltEngine:
    opened = Bundle.open(bundle)
    graph = opened.graph(component, "fp16")
    profiles = engine_profiles(graph, opened.manifest, SMALL)
    settings = EngineOptions(target="portable")
    return BUILDERS["tensorrt-rtx"].build(opened.path / graph.file, profiles, settings, plan, rope="native")


def heavy_graph(nbytes: int) -> onnx.ModelProto:
    """Two products, each with a weight of so many bytes in the bundle's weight file."""
    model = attention_graph()
    columns = nbytes // (2 * HIDDEN)
    weights = [
        onnx.TensorProto(name=name, dims=dims, data_type=onnx.TensorProto.FLOAT16, data_location=onnx.TensorProto.EXTERNAL)
        for name, dims in (("wide", [HIDDEN, columns]), ("narrow", [columns, HIDDEN]))
    ]
    for index, weight in enumerate(weights):
        for key, value in (("location", "w.bin"), ("offset", str(index * nbytes)), ("length", str(nbytes))):
            weight.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("MatMul", ["image_tokens", "wide"], ["spread"], name="spread"),
        helper.make_node("Sigmoid", ["spread"], ["bent"], name="bend"),
        helper.make_node("MatMul", ["bent", "narrow"], ["hidden_states"], name="gather"),
    ]
    del model.graph.node[:]
    del model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
    return model


def test_plan_is_written_in_pieces_of_64_mb(tmp_path: Path) -> None:
    """So a plan of 7 GB is never in memory beside the weights."""
    nbytes, plan = 40 * MIB, Sizes()
    weights = np.random.default_rng(0).integers(0, 2**13, nbytes, dtype=np.uint16).tobytes()
    make_bundle(tmp_path / "bundle", weights=weights, graphs={"transformer": heavy_graph(nbytes)})
    build_into(plan, tmp_path / "bundle", "transformer")
    assert sum(plan.sizes) > 2 * nbytes
    assert max(plan.sizes) <= 64 * MIB


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "portable"])
def test_each_target_gives_its_own_engine(small: Bundle, target: str) -> None:
    (portable,) = build_engines(small.path, options()).built
    (own,) = build_engines(small.path, options(target=target)).built
    assert own.name != portable.name and own.sha256 != portable.sha256
    assert own.key["options"]["target"] == target
    assert build_engines(small.path, options(target=target)).reused == (own,)


def test_options_that_the_library_lacks_are_refused(small: Bundle, nano: Path) -> None:
    refused = {
        "export with --precision fp16 --materialize for --target sm75": ("bf16", {"target": "sm75"}),
        "builds no version-compatible engines": ("bf16", {"version_compatible": True}),
        "takes --target in place of --hardware-compatibility": ("bf16", {"hardware_compatibility": "ampere_plus"}),
    }
    for message, (precision, settings) in refused.items():
        with pytest.raises(ExportError, match=message):
            build_engines(nano, options(precision, "blend", **settings))


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU, on which it builds")
def test_engine_without_weights_is_refused_where_there_is_no_driver(small: Bundle) -> None:
    with pytest.raises(ExportError, match=r"^TensorRT for RTX builds engines without weights only where they can run: CUDA .*$"):
        build_engines(small.path, options(strip_plan=True))
    assert not (small.path / FOLDER).exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda node: setattr(node, "op_type", "Unique"), r"Unique attention: .+"),
        (lambda node: node.attribute.append(helper.make_attribute("softcap", 1.0)), r"Attention attention: .+"),
        (lambda node: node.input.append("missing"), r".*attention.*"),
    ],
    ids=["an unknown operator", "an attribute", "an input"],
)
def test_damaged_graph_is_refused_in_a_line_and_nothing_is_left(tmp_path: Path, change: Any, reason: str) -> None:
    model = attention_graph()
    change(next(node for node in model.graph.node if node.name == "attention"))
    bundle = make_bundle(tmp_path / "bundle", graphs={"velocity_head": attention_graph(), "transformer": model})
    before = files_of(bundle.path)
    refusal = rf"^transformer: TensorRT for RTX can't read transformer\.fp16\.onnx: {reason}$"
    with pytest.raises(ExportError, match=refusal) as raised:
        build_engines(bundle.path, options())
    assert "\n" not in str(raised.value) and ".cpp" not in str(raised.value)
    assert files_of(bundle.path) == before
    plan = build_engines(bundle.path, replace(options(), dry_run=True)).plan
    assert f"  refused: {str(raised.value).removeprefix('transformer: ')}" in plan.text().splitlines()


def test_graph_that_antialiases_is_refused_with_its_node(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", graphs={"vae_decoder": antialiasing_graph()})
    with pytest.raises(ExportError, match=r"^vae_decoder: .*Resize layers\.0\.resize: "):
        build_engines(bundle.path, options())


@pytest.mark.parametrize("phase", ["checking", "Building engine", "Optimizing graph", "Determining refit engines"])
def test_ctrl_c_in_any_phase_stops_the_build(tmp_path: Path, phase: str) -> None:
    """The library printed a KeyboardInterrupt that came while it called Python, and went on."""
    shutil.copytree(NANO, tmp_path / "nano", ignore=shutil.ignore_patterns(FOLDER))

    def progress(done: int, total: int, what: str) -> None:
        if what == f"velocity_head: {phase}":
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engines(tmp_path / "nano", options("bf16", "velocity_head"), progress)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path for path in (tmp_path / "nano").rglob("*.plan")] == []


@pytest.mark.parametrize("stop", [False, KeyboardInterrupt], ids=["cancel", "Ctrl-C"])
def test_stopped_build_leaves_no_file_and_the_next_one_reuses_what_is_stored(tmp_path: Path, stop: Any) -> None:
    graphs = {"velocity_head": attention_graph(), "transformer": attention_graph(doc="another")}
    bundle = make_bundle(tmp_path / "bundle", graphs=graphs)

    def progress(done: int, total: int, what: str) -> bool:
        is_due = what.startswith("transformer: ") and what != "transformer: checking"
        if is_due and stop is KeyboardInterrupt:
            raise KeyboardInterrupt
        return not is_due

    with pytest.raises(Cancelled if stop is False else KeyboardInterrupt):
        build_engines(bundle.path, options(), progress)
    names = {name.partition(".")[0] for name in files_of(bundle.path / FOLDER)}
    assert names == {"velocity_head"} and len(files_of(bundle.path / FOLDER)) == 2
    report = build_engines(bundle.path, options())
    assert [record.key["component"] for record in report.built] == ["transformer"]
    assert [record.key["component"] for record in report.reused] == ["velocity_head"]


KILLED = """
import os, signal, sys
from omnigen2_rt.exporter.engines.build import build_engines
from omnigen2_rt.exporter.engines.engine_store import NewPlan
from tests.exporter.engines.test_rtx_builds import options
write = NewPlan.write
def killed(plan, data):
    write(plan, data)
    plan._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
NewPlan.write = killed
build_engines(sys.argv[1], options())
"""


def test_killed_build_leaves_only_what_prune_removes(small: Bundle) -> None:
    finished = subprocess.run([sys.executable, "-c", KILLED, str(small.path)], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    left = files_of(small.path / FOLDER)
    assert len(left) == 1 and not any(name.endswith((".plan", ".json")) for name in left)
    removed, freed = prune_engines(small.path)
    assert (removed, freed) == (list(left), sum(map(len, left.values())))
    assert len(build_engines(small.path, options()).built) == 1


def test_dry_run_prints_a_plan_and_writes_nothing(small: Bundle) -> None:
    before = files_of(small.path)
    text = build_engines(small.path, replace(options(), dry_run=True)).plan.text()
    assert text.startswith("TensorRT for RTX, precision fp16\ntransformer: to build; weights 0 MB + tensors 0 MB\n")
    assert "references 1×1×32 / 1×16×32" in text and "  references: " in text
    assert "the scratch memory is known after a build: `build`, or `build --dry-run --measure`" in text
    assert "not checked" not in text and "nothing can be built" not in text
    assert files_of(small.path) == before


def test_measured_dry_run_prints_the_scratch_and_writes_nothing(small: Bundle) -> None:
    before = files_of(small.path)
    plan = build_engines(small.path, replace(options(), dry_run=True, measure=True)).plan
    (engine,) = plan.engines
    assert engine.scratch_bytes is not None
    assert f" + scratch {engine.scratch_bytes / 1e6:.0f} MB\n" in plan.text() and "and one scratch of 0.0" in plan.text()
    assert files_of(small.path) == before and not (small.path / FOLDER).exists()
    (record,) = build_engines(small.path, options()).built
    assert record.report["scratch_bytes"] == engine.scratch_bytes
