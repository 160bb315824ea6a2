"""Benchmark programs as modules. They are scripts, which import what lies in their folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load_program(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """The program `name`, "build_engines" or "gpu/rtx_engines" for example."""
    path = BENCHMARKS / f"{name}.py"
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module
