"""The folder as ComfyUI and its registry take it: it stands alone, beside an installed omnigen2-rt."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import omnigen2_rt
from tests.comfyui.running import DOUBLE, NODES, ROOT

PROJECT = tomllib.loads((NODES / "pyproject.toml").read_text(encoding="utf-8"))


def test_registry_fields_are_as_it_wants_them() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert "comfyui" not in project["name"].lower() and project["name"].replace("-", "").isalnum()
    assert len(project["version"].split(".")) == 3
    assert project["license"] == {"file": "LICENSE"}
    assert project["urls"]["Repository"].startswith("https://")
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"].startswith(">=")


def test_version_is_the_packages() -> None:
    assert PROJECT["project"]["version"] == omnigen2_rt.__version__


def test_requirements_are_those_of_the_project() -> None:
    """ComfyUI's manager reads requirements.txt, its registry pyproject.toml."""
    lines = (NODES / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == PROJECT["project"]["dependencies"]


def test_licence_is_the_repositorys() -> None:
    assert (NODES / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_folder_without_omnigen2_rt_says_what_to_install() -> None:
    program = (
        "import importlib.util, sys; sys.modules['omnigen2_rt'] = None; "
        f"sys.path.append({str(DOUBLE)!r}); "
        f"spec = importlib.util.spec_from_file_location('pack', {str(NODES / '__init__.py')!r}); "
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stderr.strip().splitlines()[-1] == (
        'ImportError: omnigen2-rt is not installed in ComfyUI\'s Python: pip install "omnigen2-rt[cpu]"'
    )
