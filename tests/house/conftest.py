"""The wheel, built once for the tests that look into it or install it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import ROOT, package_files

BUILD_INPUTS = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tracked files, built offline in a copy: setuptools would take stale files from an old build/."""
    source = tmp_path_factory.mktemp("source")
    for path in (*package_files(), *map(Path, BUILD_INPUTS)):
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    finished = subprocess.run([*command, "--wheel-dir", str(built), str(source)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    (found,) = built.glob("*.whl")
    return found
