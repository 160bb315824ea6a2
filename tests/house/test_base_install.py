"""What `pip install "omnigen2-rt[cpu]"` gives: the built wheel in a second environment, and nothing of the exporter.

The environment is kept in .cache/ between runs, under a name that changes with what it was installed from. Making it
needs a package index; without one these tests fail and say so, because skipping them would hide what they are for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.house.sources import ROOT

LARGEST_BYTES = 300 * 1000**2
BASE = ROOT / ".cache" / "base-install"


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd)


def environment_key() -> str:
    """Changes with what the environment is made from."""
    made_from = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256("\0".join([sys.version, str(ROOT), *made_from]).encode()).hexdigest()[:12]


@pytest.fixture(scope="session")
def base_python(wheel: Path) -> Path:
    """The interpreter of an environment that holds the wheel with [cpu]."""
    folder = BASE / environment_key()
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(BASE, ignore_errors=True)
        made = run(sys.executable, "-m", "venv", folder)
        assert made.returncode == 0, made.stderr
        pip(python, "--constraint", ROOT / "constraints.txt", f"omnigen2-rt[cpu] @ {wheel.as_uri()}")
        (folder / "complete").touch()
    pip(python, "--no-deps", "--no-index", "--force-reinstall", wheel)
    return python


def pip(python: Path, *arguments: str | Path) -> None:
    finished = run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)
    assert finished.returncode == 0, (
        "the base environment could not be installed; this test needs a package index that has the versions in "
        f"constraints.txt.\n{finished.stderr}"
    )


def test_base_install_has_neither_torch_nor_onnx(base_python: Path) -> None:
    listing = run(base_python, "-m", "pip", "--disable-pip-version-check", "list", "--format=json")
    installed = {package["name"].lower().replace("-", "_") for package in json.loads(listing.stdout)}
    assert {"omnigen2_rt", "onnxruntime", "numpy"} <= installed
    assert not installed & {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "diffusers", "safetensors"}


def test_base_install_takes_at_most_300_megabytes(base_python: Path) -> None:
    files = [path for path in base_python.parents[1].rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_BYTES


def test_base_install_help_lists_the_commands(base_python: Path, tmp_path: Path) -> None:
    finished = run(base_python.with_name("omnigen2"), "--help", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert {"generate", "export"} <= {*finished.stdout.replace("│", " ").split()}


def test_base_install_generates_a_picture(base_python: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    request = ("a red square", "--height", "64", "--width", "96", "--steps", "2", "--seed", "7")
    command = (base_python.with_name("omnigen2"), "generate", *request, "--bundle", bundles["A"], "--out", picture)
    finished = run(*command, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    with Image.open(picture) as opened:
        assert opened.size == (96, 64)
