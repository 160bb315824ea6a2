"""`omnigen2 build` without TensorRT: it plans, checks, lists and prunes, and says why it can't build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omnigen2_rt.cli import app
from omnigen2_rt.exporter.engines.build import build_engines, prune_engines
from omnigen2_rt.exporter.engines.engine_store import store_engine
from omnigen2_rt.exporter.engines.options import BuildOptions, EngineOptions
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library
from omnigen2_rt.runtime.backends.tensorrt import records
from omnigen2_rt.runtime.errors import ExportError
from omnigen2_rt.runtime.files.user_cache import UserCache
from tests.exporter.engines.small_bundle import MACHINE, antialiasing_graph, make_bundle, make_test_key


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "build_problem", lambda rope: "the test has no TensorRT")


def run(*arguments: str) -> str:
    finished = CliRunner().invoke(app, ["build", *arguments], catch_exceptions=False)
    assert finished.exit_code == 0, finished.output
    return finished.output


def test_build_dry_run_prints_profiles_memory_and_the_problem(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    output = run(str(bundle.path), "--dry-run", "--max-size", "512", "--max-references", "2")
    assert "transformer: not known without TensorRT; weights 0 MB + tensors" in output
    assert re.search(r"scratch of about \d+ MB \(an estimate\)", output)
    assert re.search(r"all engines at once: 0\.00 GB of weights, and one scratch of about \d+\.\d\d GB", output)
    assert "references 1×1×32 / 1×1024×32 / 1×2048×32" in output
    assert "nothing can be built here: the test has no TensorRT" in output
    assert not (bundle.path / "engines").exists()


def test_build_takes_the_model_that_ships_by_its_name() -> None:
    output = run("nano", "--dry-run", "--component", "transformer", "--rope", "native")
    assert "transformer: not known without TensorRT" in output
    assert "no engines" in run("nano", "--list")


def test_build_help_lists_the_options() -> None:
    output = run("--help")
    for option in ("--max-size", "--rope", "--strip-plan", "--prune", "--dry-run"):
        assert option in output


def test_build_list_and_prune_follow_the_stored_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert "no engines" in run(str(bundle.path), "--list")
    current = store_engine(bundle.path, make_test_key(bundle), b"plan", {})
    old = store_engine(bundle.path, make_test_key(bundle, driver="1.0"), b"plan", {})
    assert prune_engines(bundle.path) == ([], 0), "without TensorRT they may be another machine's"
    monkeypatch.setattr(tensorrt_library, "build_problem", lambda rope: None)
    monkeypatch.setattr(tensorrt_library, "this_machine", lambda: MACHINE)
    assert "removed 2 files" in run(str(bundle.path), "--prune")
    output = run(str(bundle.path), "--list")
    assert current.name in output
    assert old.name not in output


def test_build_trust_names_the_engines_that_may_run_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    other = UserCache(tmp_path / "elsewhere", b"another secret", None)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(records, "user_cache", lambda: other)
        record = store_engine(bundle.path, make_test_key(bundle), b"plan", {})
    assert "built elsewhere: does not run here without --trust" in run(str(bundle.path), "--list")
    assert run(str(bundle.path), "--trust") == f"{record.name} may run now\n"
    assert run(str(bundle.path), "--trust") == "no engine that was built elsewhere\n"
    assert "built elsewhere" not in run(str(bundle.path), "--list")


def test_build_without_tensorrt_says_why(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(ExportError, match="no engine can be built here: the test has no TensorRT"):
        build_engines(bundle.path, BuildOptions(rope="native"))


def test_build_of_a_graph_that_the_parser_would_refuse_says_where_and_what_to_do(tmp_path: Path) -> None:
    """Before any build: the message names the component, the node, and the way out."""
    bundle = make_bundle(tmp_path / "bundle", graphs={"vae_decoder": antialiasing_graph()})
    problem = "Resize layers.0.resize: antialiasing is not supported; resize without it"
    with pytest.raises(ExportError, match=f"TensorRT's parser would refuse 1 nodes: vae_decoder: {problem}"):
        build_engines(bundle.path, BuildOptions(rope="native"))
    assert f"refused by the parser: {problem}" in run(str(bundle.path), "--dry-run")


def test_build_of_an_unknown_component_names_the_known_ones(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(ExportError, match="component moon is unknown; the bundle has transformer"):
        build_engines(bundle.path, BuildOptions(components=("moon",), dry_run=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"optimization_level": 6}, "is not 0 to 5"), ({"hardware_compatibility": "any"}, "is not one of none")],
)
def test_engine_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        EngineOptions(**options)  # type: ignore[arg-type]
