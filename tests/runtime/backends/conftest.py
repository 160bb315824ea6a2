"""Copies of a bundle that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from omnigen2_rt.runtime.backends.openvino import compiled_models
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.files.user_cache import UserCache


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A copy of config A's bundle, and an empty cache of compiled models."""
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    copy = tmp_path / "bundle"
    shutil.copytree(bundles["A"], copy)
    return Bundle.open(copy)


@pytest.fixture
def storeless_bundle(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A copy of which no compiled models are kept: the user's cache can't be written."""
    cache = UserCache(tmp_path / "nowhere", b"a secret of this process", "the test has no cache")
    monkeypatch.setattr(compiled_models, "user_cache", lambda: cache)
    return bundle
