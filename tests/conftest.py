"""Fixtures that several folders share: the exported golden checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.exporting import golden_bundles


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles of golden checkpoints A and B by name: A in fp32, fp16 and bf16, B in fp32.

    Whoever of several test processes needs them first exports them for all.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"
    made = folder / "made"
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            folder.mkdir(exist_ok=True)
            golden_bundles(folder)
            made.touch()
    return {name: folder / f"bundle-{name}" for name in ("A", "B")}
