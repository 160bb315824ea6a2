"""Fixtures that several folders share: graphs that are traced once, and the exported golden checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.fuzz.suite import COUNTS
from tests.traced_graphs import forget_old_graphs, share_graphs, trace_beside_others


@pytest.fixture(scope="session", autouse=True)
def shared_graphs() -> None:
    """Exports in this process trace no graph that any process has traced before."""
    forget_old_graphs()
    share_graphs()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and the processes that they start, keep what they compile in a folder of their own, not in the user's cache."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["XDG_CACHE_HOME"] = os.environ["LOCALAPPDATA"] = str(folder)


@pytest.fixture(scope="session", autouse=True)
def one_pytorch_thread() -> None:
    """On a machine that is busy, threads of networks this small wait for each other ten times as long as they compute."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles of golden checkpoints A and B by name: A in fp32, fp16 and bf16, B in fp32.

    Several test processes trace their graphs side by side; the first that is done exports the bundles for all.
    """
    from tests.exporting import golden_bundles, golden_traces

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"
    complete = folder / "complete"
    if not complete.exists():
        trace_beside_others(golden_traces())
    with FileLock(f"{folder}.lock"):
        if not complete.exists():
            folder.mkdir(exist_ok=True)
            golden_bundles(folder)
            complete.touch()
    return {name: folder / f"bundle-{name}" for name in ("A", "B")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of the fuzz suites."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports if hasattr(report, "user_properties")]
    for line in sorted({str(text) for report in reports for name, text in report.user_properties if name == COUNTS}):
        terminalreporter.write_line(line)
