"""Tests on the real TensorRT for RTX, whose libraries are on PyPI: it builds without a GPU, and runs only with one."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason='TensorRT for RTX is not installed; pip install "omnigen2-rt[dev]" brings it on Linux x86_64',
)
