"""The cost of building engines, measured in processes of their own. Engines are built: that needs TensorRT for RTX and no GPU."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.programs import load_program

if not sys.platform.startswith("linux"):
    pytest.skip("Linux says how much memory of a process is its own", allow_module_level=True)

ROOT = Path(__file__).parents[2]
HOLDS_50_MB = "block = bytearray(b'x') * 50_000_000; print('held')"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_program(monkeypatch, "build_engines")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_program(monkeypatch, "watched_process")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX isn't installed: pip install tensorrt-rtx-cu13")
    folder = tmp_path_factory.mktemp("build") / "nano"
    shutil.copytree(ROOT / "nano/checkpoint", folder, ignore=shutil.ignore_patterns("engines", "compiled"))
    return folder


def test_watched_process_reports_its_memory_and_the_end_of_its_output(watched: ModuleType) -> None:
    quiet = watched.run_watched([sys.executable, "-c", "import time; time.sleep(0.2)"])
    large = watched.run_watched([sys.executable, "-c", f"{HOLDS_50_MB}; import time; time.sleep(0.2)"])
    assert (large.code, large.last_lines, large.limit_hits) == (0, "held", None)
    assert large.peak_anonymous_bytes - quiet.peak_anonymous_bytes > 45_000_000
    assert large.peak_resident_bytes >= large.peak_anonymous_bytes


def test_watched_process_that_fails_reports_its_code(watched: ModuleType) -> None:
    failed = watched.run_watched([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert (failed.code, failed.last_lines) == (1, "no such thing")


def test_watched_process_beyond_its_limit_is_killed(watched: ModuleType) -> None:
    try:
        killed = watched.run_watched([sys.executable, "-c", HOLDS_50_MB], 20_000_000)
    except OSError as error:
        pytest.skip(f"no control groups of version 1 that may be written: {error}")
    assert killed.code == -9 and killed.limit_hits > 0


def test_engine_is_measured_and_deleted(
    program: ModuleType, nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    arguments = [str(nano), "--component", "blend", "context_refiner", "--target", "sm89", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["build_engines", *arguments])
    program.main()
    read = json.loads(report.read_text())
    assert list(read["engines"]) == ["blend", "context_refiner"]
    refiner = read["engines"]["context_refiner"]
    assert refiner["attention"] == "fused" and refiner["plan_bytes"] > refiner["weight_bytes"] > 1_000_000
    assert refiner["process_s"] > refiner["build_s"] > 0
    assert read["total"]["plan_bytes"] == sum(engine["plan_bytes"] for engine in read["engines"].values())
    assert read["settings"]["options"] == ["--target", "sm89"] and read["versions"]["tensorrt-rtx-cu13"][0].isdigit()
    assert not list((nano / "engines").glob("*.plan")) and not list((nano / "engines").glob("*.json"))
    assert [line.split(" {")[0] for line in capsys.readouterr().out.splitlines()] == ["blend", "context_refiner", "total"]


def test_engine_that_was_there_before_stays_and_gives_no_figures(program: ModuleType, nano: Path) -> None:
    kept = program.measure(nano, "blend", "bf16", [], keep=True)
    again = program.measure(nano, "blend", "bf16", [])
    assert "plan_bytes" in kept and "0 engines built, 1 reused" in again["problem"]
    assert len(list((nano / "engines").glob("blend.*.plan"))) == 1


def test_build_that_fails_gives_the_message(program: ModuleType, nano: Path) -> None:
    figures = program.measure(nano, "blend", "bf16", ["--hardware-compatibility", "ampere_plus"])
    assert "takes --target in place of --hardware-compatibility" in figures["problem"]


def test_total_sums_what_was_built_and_counts_what_failed(program: ModuleType) -> None:
    built = {"build_s": 1.26, "plan_bytes": 10, "weight_bytes": 7, "peak_resident_bytes": 5, "peak_anonymous_bytes": 3}
    engines = {"a": {**built, "scratch_bytes": None}, "b": {**built, "scratch_bytes": 4}, "c": {"problem": "no"}}
    assert program.total(engines) == {
        "built": 2, "failed": 1, "build_s": 2.5, "plan_bytes": 20, "weight_bytes": 14,
        "most_peak_resident_bytes": 5, "most_peak_anonymous_bytes": 3, "most_scratch_bytes": 4,
    }  # fmt: skip


def test_unknown_component_is_refused(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["build_engines", "nano", "--component", "brain"])
    with pytest.raises(SystemExit):
        program.main()
    assert "the bundle has no brain in bf16; it has token_embedding" in capsys.readouterr().err
