"""Copies of a bundle that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from omnigen2_rt.runtime.backends.openvino.compiled_models import FOLDER
from omnigen2_rt.runtime.bundle import Bundle


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path) -> Bundle:
    """A copy of config A's bundle, without compiled models."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundles["A"], copy, ignore=shutil.ignore_patterns(FOLDER))
    return Bundle.open(copy)


@pytest.fixture
def storeless_bundle(bundle: Bundle) -> Bundle:
    """A copy that keeps no compiled models: a file is in the place of their folder."""
    (bundle.path / FOLDER).touch()
    return bundle
