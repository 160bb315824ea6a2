"""The program for owners of an RTX card, without one: its guard, its JSON, and every section that a CPU can run.

ONNX Runtime stands in for the engines where a section goes through the backend's protocol. Sections about what only engines have
say what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.runtime.errors import BackendError
from tests.benchmarks.programs import load_program

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/data/goldens/A/checkpoint"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    program = load_program(monkeypatch, "gpu/rtx_engines")
    monkeypatch.setattr(program.rtx_nano, "STEPS", 2)
    return program


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_program(monkeypatch, "gpu/guarded")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def run_here(program: ModuleType, work: Path, section: str, **changes: Any) -> dict[str, Any]:
    """A section's figures, run in this process on ONNX Runtime at a small size."""
    settings = {"backend": "ort-cpu", "precisions": ["fp32"], "size_px": 64, "samples": 1, "rounds": 2, "layers": 2}
    bench = program.RTXBench(work=work, **{**settings, "configuration": str(TINY), **changes})
    figures = program.Figures({}, lambda: None)
    program.SECTIONS[section].run(bench, figures)
    json.dumps(figures.values)
    return figures.values


def options(program: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> argparse.Namespace:
    return program._parser().parse_args([*arguments])


def needs_library() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX isn't installed: pip install tensorrt-rtx-cu13")


def test_part_that_fails_keeps_its_figures_and_its_message(guarded: ModuleType) -> None:
    saved: list[str] = []
    values: dict[str, Any] = {}
    figures = guarded.Figures(values, lambda: saved.append(json.dumps(values)))
    with figures.part("first") as part:
        part.add(seconds=1.5)
        raise BackendError("no GPU")
    with figures.part("second") as part:
        raise ZeroDivisionError("division\nby zero")
    figures.add(third=3)
    assert values == {
        "first": {"seconds": 1.5, "problem": "no GPU"}, "second": {"problem": "ZeroDivisionError: division by zero"}, "third": 3,
    }  # fmt: skip
    assert json.loads(saved[0]) == {"first": {"seconds": 1.5}} and json.loads(saved[-1]) == values


def test_section_that_crashes_keeps_what_it_had_measured(guarded: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    crash = f"open({str(file)!r}, 'w').write('{{\"seconds\": 2}}'); print('last words', flush=True); import os; os.abort()"
    figures = guarded.run_section([sys.executable, "-c", crash], file, 60)
    assert figures["seconds"] == 2 and figures["problem"] == "its process ended with -6 | last words"


def test_section_that_hangs_is_stopped(guarded: ModuleType, tmp_path: Path) -> None:
    started = time.monotonic()
    figures = guarded.run_section([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "figures.json", 1)
    assert "stopped after 1 s" in figures["problem"] and time.monotonic() - started < 30


def test_every_section_has_an_entry_when_there_is_no_time(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = program.measure(options(program, monkeypatch, "--minutes", "0", "--json", str(tmp_path / "report.json")))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert list(report["sections"]) == list(program.SECTIONS)
    for name, figures in report["sections"].items():
        assert figures == {"problem": f"left out, because 0 minutes were over: raise --minutes, or --only {name}"}
    assert {"machine", "versions", "settings"} < report.keys() and report["versions"]["numpy"] == np.__version__


def test_sections_run_in_processes_of_their_own_with_the_options(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`card` needs nothing, and `recorded` says that it needs a GPU."""
    if program.LIBRARY.problem() is None:
        pytest.skip("this machine has a GPU that TensorRT for RTX runs on")
    arguments = ["--only", "card", "recorded", "--work", str(tmp_path), "--json", str(tmp_path / "report.json")]
    sections = program.measure(options(program, monkeypatch, *arguments))["sections"]
    assert sections["card"]["library_problem"] == program.LIBRARY.problem()
    assert sections["recorded"]["problem"] == f"needs a GPU that TensorRT for RTX runs on: {program.LIBRARY.problem()}"
    assert sections["recorded"]["section_s"] > 0


def test_unknown_section_is_refused(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options(program, monkeypatch, "--only", "everything")
    assert "choose from" in capsys.readouterr().err


def test_help_names_every_section(program: ModuleType) -> None:
    text = program._parser().format_help()
    assert all(f"    {name} " in text and section.title in text for name, section in program.SECTIONS.items())


def test_validity_names_the_driver_where_there_is_none(
    program: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_library()
    monkeypatch.setattr(program.rtx_card, "TARGETS", ("portable", "sm89"))
    figures = run_here(program, work, "validity")
    assert figures["no engine"]["diagnostics"] == ["MALFORMED_ENGINE"]
    for target in ("portable", "sm89"):
        assert figures[target]["plan_bytes"] > 100_000
        if program.LIBRARY.problem() is not None:
            assert figures[target]["validity"] == "INVALID" and "driver" in figures[target]["message"]


def test_damaged_engines_are_refused_and_the_whole_one_is_not(program: ModuleType, work: Path) -> None:
    needs_library()
    figures = run_here(program, work, "damaged")
    assert all(case["as_expected"] for case in figures.values()) and figures["whole"]["refusal"] is None
    messages = {"truncated": "bytes, not", "altered": "other bytes", "altered, and its record too": "did not build it"}
    assert all(text in figures[name]["refusal"] for name, text in messages.items())


def test_nano_pictures_on_the_same_backend_are_the_same(program: ModuleType, work: Path) -> None:
    figures = run_here(program, work, "nano_pictures")["fp32"]
    assert figures["drawing"]["latents_relative_error"] == figures["editing"]["latents_relative_error"] == 0
    assert figures["drawing"]["psnr_db"] is None and figures["editing"]["seconds"] > 0


def test_memory_limit_closes_components_and_changes_nothing(program: ModuleType, work: Path) -> None:
    figures = run_here(program, work, "memory_limit")
    assert figures["limited"]["most_open_bytes"] <= figures["limited"]["limit_bytes"] < figures["unlimited"]["most_open_bytes"]
    assert figures["limited"]["openings"] > figures["unlimited"]["openings"]
    assert figures["relative_difference"] == 0


def test_step_takes_turns_with_torch_on_the_same_weights(
    program: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.rtx_full_size, "WARM_UP_S", 0.0)
    figures = run_here(program, work, "step")
    assert figures["layers"] == 2 and figures["joint_tokens"] == program.rtx_full_size.TEXT_TOKENS + 16
    ours, eager = figures["ort-cpu"], figures["torch eager"]
    assert ours["relative_difference"] < 1e-4 and eager["relative_difference"] == 0
    for side in (ours, eager):
        assert 0 < side["best_ms"] <= side["median_ms"]
        assert side["scaled to 32 layers: median_ms"] == pytest.approx(16 * side["median_ms"])


def test_scores_are_those_of_the_evaluation(program: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program.rtx_nano, "ABILITIES", program.rtx_nano.ABILITIES[:1])
    figures = run_here(program, work, "nano_scores")
    (score,) = figures["fp32"].values()
    assert figures["samples"] == score["samples"] == 1


def test_layers_that_fit_are_the_scarcest_memorys(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = program.RTXBench(
        work=tmp_path, backend="ort-cpu", precisions=["fp32"], size_px=64, rounds=1, samples=1, layers=None, configuration=None
    )
    fit = program.rtx_full_size.layers_that_fit
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_AVPHYS_PAGES": 5_000_000, "SC_PAGE_SIZE": 1000}[name])  # 5 GB
    usage = argparse.Namespace(free=10**12)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert fit(bench, 10**8) == (20, "host memory")
    assert fit(bench, 10**7) == (32, "nothing: all layers")
    usage.free = 10**9
    assert fit(bench, 10**8) == (1, "disk")
