"""The folders of models and outputs."""

from __future__ import annotations

import os

models_dir = os.path.join(os.path.dirname(__file__), "models")  # there is none
_folders: dict[str, list[str]] = {}
_output = ""


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    """One more folder of a kind of model; the default one comes first."""
    folders = _folders.setdefault(folder_name, [])
    if full_folder_path not in folders:
        folders.insert(0 if is_default else len(folders), full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    """The folders of a kind of model."""
    return list(_folders[folder_name])


def set_output_directory(output_dir: str) -> None:
    """Set the folder of saved pictures."""
    global _output
    _output = output_dir


def get_output_directory() -> str:
    """The folder of saved pictures."""
    return _output
