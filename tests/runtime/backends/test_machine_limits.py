"""The cores and the memory of this process: within the machine's and its container's limits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from omnigen2_rt.runtime.backends import machine_limits as machine


def test_cores_are_those_that_the_process_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert machine.usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(("limit", "expected"), [("1000\n", 1000), ("max\n", 2000), ("900000", 2000), (None, 2000)])
def test_memory_is_the_least_known_limit(
    limit: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(machine, "GROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(os, "sysconf_names", {"SC_PHYS_PAGES": 1}, raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 20, "SC_PHYS_PAGES": 100}.__getitem__, raising=False)
    assert machine.usable_memory_bytes() == expected


def test_memory_without_a_known_limit_is_unlimited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(os, "sysconf_names", {}, raising=False)
    assert machine.usable_memory_bytes() == sys.maxsize
