"""Fixtures that several folders share: the exported golden checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exporting import golden_bundles


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles of golden checkpoints A and B by name: A in fp32, fp16 and bf16, B in fp32."""
    return golden_bundles(tmp_path_factory.mktemp("bundles"))
