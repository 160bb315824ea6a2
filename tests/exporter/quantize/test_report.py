"""The report's stages: each is announced before it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from omnigen2_rt.exporter.quantize import report


@pytest.mark.parametrize("is_scored", [False, True])
def test_measure_announces_each_stage_before_it_begins(monkeypatch: pytest.MonkeyPatch, is_scored: bool) -> None:
    """Scoring takes longest, and of the second bundle nothing was said."""
    events: list[str] = []
    drawing = {report.FROM_TEXT: SimpleNamespace(images=())}
    calibration: Any = SimpleNamespace(open=lambda bundle: None, size_px=32, steps=1)

    def score(bundle: str, *settings: object) -> float:
        events.append(f"scored {bundle}")
        return 0.5

    monkeypatch.setattr(report, "ObservedBackend", lambda *words: None)
    monkeypatch.setattr(report, "_draw", lambda *words: drawing)
    monkeypatch.setattr(report, "_drawing_change", lambda *words: None)
    monkeypatch.setattr(report, "_score", score)
    names: Any = "before", "after"

    def announce(done: int, total: int, what: str) -> None:
        events.append(f"{done}/{total} {what}")

    made = report.measure(*names, (), "int8", calibration, announce, score if is_scored else None)
    stages = ["drawing as before", "drawing quantized", "comparing components"]
    if not is_scored:
        assert events == [f"{done}/3 {stage}" for done, stage in enumerate(stages)] and made.scores is None
        return
    assert events[:3] == [f"{done}/5 {stage}" for done, stage in enumerate(stages)] and made.scores == (0.5, 0.5)
    assert events[3].startswith("3/5 scoring many pictures as before, which takes longest") and events[4] == "scored before"
    assert events[5].startswith("4/5 scoring many pictures quantized") and events[6] == "scored after"
