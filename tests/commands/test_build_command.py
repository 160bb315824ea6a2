"""`omnigen2 build` where there is no TensorRT: it plans, checks, lists and prunes, and says why it can't build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omnigen2_rt.cli import app
from omnigen2_rt.exporter.engines import build
from omnigen2_rt.exporter.engines.build import BuildOptions, build_engines, prune_engines
from omnigen2_rt.exporter.engines.builder import EngineOptions
from omnigen2_rt.exporter.engines.cache import store_engine
from omnigen2_rt.exporter.engines.parser_support import Finding
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.engines.made_bundle import MACHINE, make_bundle, make_test_key


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "build_problem", lambda rope: "the test has no TensorRT")


def run(*arguments: str) -> str:
    finished = CliRunner().invoke(app, ["build", *arguments], catch_exceptions=False)
    assert finished.exit_code == 0, finished.output
    return finished.output


def test_build_dry_run_prints_profiles_memory_and_the_problem(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle")
    told = run(str(made.path), "--dry-run", "--max-size", "512", "--max-references", "2")
    assert "transformer: not known without TensorRT; weights 0 MB + tensors" in told
    assert re.search(r"scratch of about \d+ MB \(an estimate\)", told)
    assert re.search(r"all engines at once: 0\.00 GB of weights, and one scratch of about \d+\.\d\d GB", told)
    assert "references 1×1×32 / 1×1024×32 / 1×2048×32" in told
    assert "nothing can be built here: the test has no TensorRT" in told
    assert not (made.path / "engines").exists()


def test_build_help_lists_the_options() -> None:
    told = run("--help")
    for option in ("--max-size", "--rope", "--strip-plan", "--prune", "--dry-run"):
        assert option in told


def test_build_list_and_prune_show_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_bundle(tmp_path / "bundle")
    assert "no engines" in run(str(made.path), "--list")
    kept = store_engine(made.path, make_test_key(made), b"plan", {})
    old = store_engine(made.path, make_test_key(made, driver="1.0"), b"plan", {})
    assert prune_engines(made.path) == ([], 0), "without TensorRT nobody knows whose they are"
    monkeypatch.setattr(build, "_machine", lambda *rope: (MACHINE, None))
    assert "removed 2 files" in run(str(made.path), "--prune")
    told = run(str(made.path), "--list")
    assert kept.name in told
    assert old.name not in told


def test_build_without_tensorrt_says_why(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle")
    with pytest.raises(ExportError, match="no engine can be built here: the test has no TensorRT"):
        build_engines(made.path, BuildOptions(rope="native"))


def test_build_of_a_graph_that_the_parser_would_refuse_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is built: the message names the component, the node, and the way out."""
    found = Finding(node="layers.0.resize", op_type="Resize", problem="antialiasing is not taken", advice="resize without it")
    monkeypatch.setattr(build, "check_graph", lambda path, rope: [found])
    made = make_bundle(tmp_path / "bundle")
    told = "transformer: Resize layers.0.resize: antialiasing is not taken; resize without it"
    with pytest.raises(ExportError, match=f"TensorRT's parser would refuse 1 nodes: {told}"):
        build_engines(made.path, BuildOptions(rope="native"))
    assert f"refused by the parser: {told.removeprefix('transformer: ')}" in run(str(made.path), "--dry-run")


def test_build_of_an_unknown_component_names_the_known_ones(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle")
    with pytest.raises(ExportError, match="component moon is unknown; the bundle has transformer"):
        build_engines(made.path, BuildOptions(components=("moon",), dry_run=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"optimization_level": 6}, "is not 0 to 5"), ({"hardware_compatibility": "any"}, "is not one of none")],
)
def test_engine_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        EngineOptions(**options)  # type: ignore[arg-type]
