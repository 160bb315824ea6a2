"""Environments like those of the package's users.

`make demo` and these tests share one, `.venv-cpu`, so that its packages are downloaded once. A test that installs something gets
a new environment that finds those packages behind its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from tests.repository.pages import Block
from tests.repository.sources import ROOT

CPU_ENVIRONMENT = ROOT / ".venv-cpu"
"""The environment of `make demo`: [cpu] and what it brings along, and the working tree as an editable package."""


def run(*command: str | Path, cwd: Path | None = None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, without what this test run has set. path: the folder whose programs come first."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=user_environ(path))


def run_block(block: Block, programs: Path, folder: Path) -> None:
    """Run a page's block in `folder`, where its output stays. Fails with what it printed."""
    interpreters = {"sh": ("bash", "-eu", "-o", "pipefail", "-c"), "python": ("python", "-c")}
    finished = run(*interpreters[block.language], block.text, cwd=folder, path=programs)
    place = f"{block.page}:{block.line}"
    assert finished.returncode == 0, f"{place} failed\n{block.text}\n{finished.stdout}\n{finished.stderr}"


def user_environ(path: Path | None) -> dict[str, str]:
    """This process's environment variables without those of make and Python, and with pip held to constraints.txt."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON", "VIRTUAL_ENV"))}
    programs = kept["PATH"] if path is None else f"{path}{os.pathsep}{kept['PATH']}"
    return {
        **kept,
        "PATH": programs,
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def installed_cpu_environment() -> Path:
    """The interpreter of `.venv-cpu`, which the Makefile's own rule installs where pyproject.toml or constraints.txt is newer."""
    lock = ROOT / ".cache" / "cpu-environment.lock"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        rule = f"{CPU_ENVIRONMENT.name}/.installed"
        finished = run("make", "--silent", f"PYTHON={sys.executable}", rule, cwd=ROOT)
    assert finished.returncode == 0, (
        f"{CPU_ENVIRONMENT.name} could not be installed; this test needs a package index that has the versions in "
        f"constraints.txt.\n{finished.stderr}"
    )
    return CPU_ENVIRONMENT / "bin" / "python"


def new_environment(folder: Path) -> Path:
    """The programs of a new environment, which holds pip and finds the packages of `.venv-cpu` behind its own.

    The working tree isn't among them: Python reads the .pth file of an editable package in an environment's own folder only.
    """
    finished = run(installed_cpu_environment(), "-m", "venv", folder)
    assert finished.returncode == 0, finished.stderr
    (packages_of(folder) / "cpu.pth").write_text(f"{packages_of(CPU_ENVIRONMENT)}\n", encoding="utf-8")
    return folder / "bin"


def packages_of(environment: Path) -> Path:
    """The site-packages folder of an environment."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    return packages
