"""Fixtures that several folders share: the exported golden checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exporting import GOLDENS, exported_bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles of golden checkpoints A and B by name: A in fp32, fp16 and bf16, B in fp32."""
    tmp = tmp_path_factory.mktemp("bundles")
    precisions = {"A": ("fp32", "fp16", "bf16"), "B": ("fp32",)}
    return {name: exported_bundle(GOLDENS / name / "checkpoint", tmp, wanted) for name, wanted in precisions.items()}
