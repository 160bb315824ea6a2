"""The cores and the memory of this process: within the machine's and its container's limits."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt import load
from omnigen2_rt.runtime.backends import machine_limits as machine
from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError


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


@pytest.mark.parametrize("threads", [0, -1, True, "8", 1.0, pytest.param(-(10**5000), id="huge")])
def test_threads_that_are_no_count_are_refused(threads: Any, bundles: dict[str, Path]) -> None:
    message = r"threads=\S+.* is not a whole number of 1 or more, or None"
    with pytest.raises(BackendError, match=message):
        load(bundles["A"], threads=threads)
    with pytest.raises(BackendError, match=message):
        open_backend(Bundle.open(bundles["A"]), "ort-cpu", "fp32", threads)


@pytest.mark.parametrize("threads", [1000, 10**6, pytest.param(10**5000, id="huge")])
def test_threads_beyond_the_machine_are_refused(threads: int, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand threads were started for every component."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    with pytest.raises(BackendError, match=r"threads=.* is above the most here, 64; this machine has 64 cores"):
        load(bundles["A"], threads=threads)


def test_threads_of_a_setting_from_a_larger_machine_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    machine.check_limits(memory_limit_bytes=None, threads=machine.THREADS_EVERYWHERE)
    with pytest.raises(BackendError, match="threads=17 is above the most here, 16; this machine has 1 core"):
        machine.check_limits(memory_limit_bytes=None, threads=17)
