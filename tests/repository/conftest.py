"""The wheel and an installed package, made once for the tests that look into them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.repository.environments import new_environment, run_block
from tests.repository.pages import README, RUN_IN_CLONE, blocks
from tests.repository.sources import ROOT, package_files

BUILD_INPUTS = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files that a build reads: setuptools would take stale files from an old build/."""
    copy = tmp_path_factory.mktemp("clone")
    for path in (*package_files(), *map(Path, BUILD_INPUTS)):
        target = copy / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    return copy


@pytest.fixture(scope="session")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's wheel, built offline."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    finished = subprocess.run([*command, "--wheel-dir", str(folder), str(clone)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def readme_programs(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which README's own command has installed the package.

    The first of several test processes makes it for all. Needs a package index, for setuptools.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "readme-environment"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            programs = new_environment(folder)
            for block in blocks(README):
                if block.mark == RUN_IN_CLONE:
                    run_block(block, programs, clone)
            (folder / "complete").touch()
    return folder / "bin"
