"""README's `pip install`: the package with [cpu] in an environment of its own, and nothing of the exporter."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from omnigen2_rt.runtime.images.png import read_parameters
from tests.exporting import GOLDENS
from tests.repository.environments import CPU_ENVIRONMENT, packages_of, run
from tests.repository.sources import PACKAGE

LARGEST_BYTES = 300 * 1000**2
COMPILED_TO_SOURCE = 1.25
"""The bytes of a compiled module to those of its source, measured. pip compiles; `.venv-cpu` is installed without that."""


def installed_bytes(folder: Path) -> float:
    """The bytes of a folder's files, each module counted as compiled."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".pyc"]
    return sum(path.stat().st_size * (1 + COMPILED_TO_SOURCE * (path.suffix == ".py")) for path in files)


def test_base_install_has_neither_torch_nor_onnx(readme_programs: Path) -> None:
    listing = run(readme_programs / "pip", "list", "--format=json")
    installed = {package["name"].lower().replace("-", "_") for package in json.loads(listing.stdout)}
    assert {"omnigen2_rt", "onnxruntime", "numpy"} <= installed
    assert not installed & {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "diffusers", "safetensors"}


def test_base_install_takes_at_most_300_megabytes(readme_programs: Path) -> None:
    package = packages_of(readme_programs.parent) / PACKAGE
    assert installed_bytes(CPU_ENVIRONMENT) + installed_bytes(package) <= LARGEST_BYTES


def test_base_install_needs_nothing_beyond_the_makefiles_environment(readme_programs: Path) -> None:
    """`make demo` shows what users install: README's command found every dependency there."""
    own = {path.name.partition("-")[0] for path in packages_of(readme_programs.parent).glob("*.dist-info")}
    assert own <= {"omnigen2_rt", "pip", "setuptools"}


def test_base_install_runs_its_own_copy(readme_programs: Path, tmp_path: Path) -> None:
    finished = run(readme_programs / "python", "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=tmp_path)
    assert Path(finished.stdout.strip()).parent == packages_of(readme_programs.parent) / PACKAGE


def test_base_install_help_lists_the_commands(readme_programs: Path, tmp_path: Path) -> None:
    finished = run(readme_programs / "omnigen2", "--help", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert {"generate", "export"} <= {*finished.stdout.replace("│", " ").split()}


def test_base_install_generates_a_picture(readme_programs: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    request = ("a red square", "--height", "64", "--width", "96", "--steps", "2", "--seed", "7")
    finished = run(
        readme_programs / "omnigen2", "generate", *request, "--bundle", bundles["A"], "--out", picture, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr
    with Image.open(picture) as opened:
        assert opened.size == (96, 64)


def test_base_install_draws_with_a_lora(readme_programs: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    """Merging needs neither PyTorch nor onnx."""
    lora, picture = GOLDENS / "A" / "golden" / "inputs" / "lora", tmp_path / "picture.png"
    request = ("a red square", "--height", "64", "--width", "96", "--steps", "2", "--out", picture)
    merging = ("--bundle", bundles["A"], "--lora", f"{lora}:0.5", "--lora-dir", tmp_path / "store")
    finished = run(readme_programs / "omnigen2", "generate", *request, *merging, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert [(merged["name"], merged["scale"]) for merged in read_parameters(picture)["loras"]] == [("lora", 0.5)]
