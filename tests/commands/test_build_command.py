"""`omnigen2 build` without either library: it plans, lists and prunes, and says why it can't build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omnigen2_rt.cli import app
from omnigen2_rt.exporter.engines.build import build_engines, prune_engines
from omnigen2_rt.exporter.engines.options import BuildOptions, EngineOptions
from omnigen2_rt.runtime.backends.tensorrt import records
from omnigen2_rt.runtime.backends.tensorrt.library import Library
from omnigen2_rt.runtime.backends.tensorrt.standard import TensorRT
from omnigen2_rt.runtime.errors import ExportError
from omnigen2_rt.runtime.files.user_cache import UserCache
from tests.exporter.engines.small_bundle import MACHINE, make_bundle, make_test_key, store_plan


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither library, on a machine with a GPU that nothing asks."""
    monkeypatch.setattr(Library, "version_problem", lambda self: f"the test has no {self.title}")
    monkeypatch.setattr(Library, "gpu_problem", lambda self: None)


def run(*arguments: str) -> str:
    finished = CliRunner().invoke(app, ["build", *arguments], catch_exceptions=False)
    assert finished.exit_code == 0, finished.output
    return finished.output


def test_build_dry_run_prints_profiles_memory_and_the_problem(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    output = run(str(bundle.path), "--dry-run", "--max-size", "512", "--max-references", "2")
    assert output.startswith("TensorRT, precision fp16\n")
    assert re.search(r"transformer: not known without the library; weights 0 MB \+ tensors \d+ MB\n", output)
    assert "all engines at once: 0.00 GB of weights, and scratch\n" in output
    assert "the scratch memory is known after a build: `build`, or `build --dry-run --measure`\n" in output
    assert "the graphs are not checked: the test has no TensorRT\n" in output
    assert "references 1×1×32 / 1×1024×32 / 1×2048×32" in output
    assert "nothing can be built here: the test has no TensorRT" in output
    assert not (bundle.path / "engines").exists()


def test_build_takes_the_model_that_ships_by_its_name() -> None:
    output = run("nano", "--dry-run", "--component", "transformer", "--rope", "native")
    assert "transformer: not known without the library" in output
    assert "no engines" in run("nano", "--list")


def test_build_help_lists_the_options() -> None:
    output = run("--help")
    for option in ("--max-size", "--library", "--target", "--rope", "--strip-plan", "--prune", "--dry-run", "--measure"):
        assert option in output


def test_build_list_and_prune_follow_the_stored_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert "no engines" in run(str(bundle.path), "--list")
    current = store_plan(bundle.path, make_test_key(bundle), b"plan")
    old = store_plan(bundle.path, make_test_key(bundle, driver="1.0"), b"plan")
    other = store_plan(bundle.path, make_test_key(bundle, library="tensorrt-rtx", tensorrt="1.0"), b"plan")
    assert prune_engines(bundle.path) == ([], 0), "without TensorRT they may be another machine's"
    monkeypatch.setattr(TensorRT, "version_problem", lambda self: None)
    monkeypatch.setattr(TensorRT, "machine", lambda self: MACHINE)
    assert "removed 2 files" in run(str(bundle.path), "--prune")
    output = run(str(bundle.path), "--list")
    assert current.name in output
    assert old.name not in output
    assert other.name in output, "of a library that is not here"


def test_build_trust_names_the_engines_that_may_run_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    other = UserCache(tmp_path / "elsewhere", b"another secret", None)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(records, "user_cache", lambda: other)
        record = store_plan(bundle.path, make_test_key(bundle), b"plan")
    assert "built elsewhere: does not run here without --trust" in run(str(bundle.path), "--list")
    assert run(str(bundle.path), "--trust") == f"{record.name} may run now\n"
    assert run(str(bundle.path), "--trust") == "no engine that was built elsewhere\n"
    assert "built elsewhere" not in run(str(bundle.path), "--list")


def test_build_without_tensorrt_says_why(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    for library, title in (("auto", "TensorRT"), ("tensorrt", "TensorRT"), ("tensorrt-rtx", "TensorRT for RTX")):
        with pytest.raises(ExportError, match=f"^no engine can be built here: the test has no {title}$"):
            build_engines(bundle.path, BuildOptions(library=library, rope="native"))
    with pytest.raises(ExportError, match="^nothing can be measured here: the test has no TensorRT$"):
        build_engines(bundle.path, BuildOptions(rope="native", dry_run=True, measure=True))


def test_build_with_an_unknown_library_or_rope_names_the_known_ones(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(ExportError, match="library='moon' is not one of auto, tensorrt, tensorrt-rtx"):
        build_engines(bundle.path, BuildOptions(library="moon"))
    with pytest.raises(ExportError, match="rope='plugin': TensorRT for RTX takes native"):
        build_engines(bundle.path, BuildOptions(library="tensorrt-rtx", rope="plugin"))


def test_measure_without_dry_run_is_refused() -> None:
    with pytest.raises(ExportError, match="measure goes with dry_run"):
        BuildOptions(measure=True)


def test_build_of_an_unknown_component_names_the_known_ones(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(ExportError, match="component moon is unknown; the bundle has transformer"):
        build_engines(bundle.path, BuildOptions(components=("moon",), dry_run=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimization_level": 6}, "is not 0 to 5"),
        ({"hardware_compatibility": "any"}, "is not one of none"),
        ({"target": "sm90"}, "target='sm90' is not one of portable, sm75, sm80"),
    ],
)
def test_engine_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        EngineOptions(**options)  # type: ignore[arg-type]
