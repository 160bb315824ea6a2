"""Compiled models on disk: never an outdated or a partial one, and no error where none can be kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.runtime.backends.openvino import compiled_models as compiled
from omnigen2_rt.runtime.backends.openvino.compiled_models import (
    FOLDER,
    HEADER_BYTES,
    LEFTOVER_S,
    CompiledModels,
    make_key,
)
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.files.writing import PARTIAL

MODEL = bytes(range(256)) * 20
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def key(bundle: Bundle, component: str = "transformer", **changes: Any) -> dict[str, Any]:
    graph = changes.pop("graph", bundle.graph(component, "fp32"))
    return make_key(bundle, graph, **{"engine": "1.0", "cpu": "one", "options": {"threads": 1}, **changes})


def files(bundle: Bundle) -> list[str]:
    return sorted(path.name for path in (bundle.path / FOLDER).iterdir())


def stored_model(bundle: Bundle) -> tuple[CompiledModels, dict[str, Any], Path]:
    """A cache that holds MODEL, its key and its file."""
    cache, model_key = CompiledModels(bundle.path), key(bundle)
    cache.store(model_key, MODEL)
    return cache, model_key, bundle.path / FOLDER / files(bundle)[0]


def test_model_that_was_kept_comes_back(bundle: Bundle) -> None:
    cache, model_key, path = stored_model(bundle)
    loaded = cache.load(model_key)
    assert loaded is not None and loaded.tobytes() == MODEL
    assert path.name.startswith("transformer.fp32.") and files(bundle) == [path.name]
    assert path.stat().st_size == HEADER_BYTES + len(MODEL)


def test_model_that_was_never_kept_is_none(bundle: Bundle) -> None:
    assert CompiledModels(bundle.path).load(key(bundle)) is None


@pytest.mark.parametrize("changed", [{"engine": "1.1"}, {"cpu": "two"}, {"options": {"threads": 2}}, {"options": {}}])
def test_model_is_not_used_with_another_ingredient(bundle: Bundle, changed: dict[str, Any]) -> None:
    cache, _, _ = stored_model(bundle)
    assert cache.load(key(bundle, **changed)) is None


@pytest.mark.parametrize("changed", ["precision", "component", "inlined_sha256"])
def test_model_is_not_used_for_another_graph(bundle: Bundle, changed: str) -> None:
    cache, _, _ = stored_model(bundle)
    graph = replace(bundle.graph("transformer", "fp32"), **{changed: "other"})
    assert cache.load(key(bundle, graph=graph)) is None


def test_model_is_not_used_with_weights_that_changed(bundle: Bundle) -> None:
    """Neither where the manifest says so, nor where a file was changed in place and the manifest doesn't know."""
    cache, _, _ = stored_model(bundle)
    specs = tuple(replace(spec, sha256="other") if spec.file == WEIGHTS else spec for spec in bundle.manifest.files)
    assert cache.load(key(Bundle(bundle.path, replace(bundle.manifest, files=specs)))) is None
    os.utime(bundle.path / WEIGHTS, ns=(1, 1))
    assert cache.load(key(bundle)) is None


@pytest.mark.parametrize("where", [0, 10, HEADER_BYTES, HEADER_BYTES + len(MODEL) - 1])
def test_model_with_a_changed_byte_is_not_used(bundle: Bundle, where: int) -> None:
    cache, model_key, path = stored_model(bundle)
    data = bytearray(path.read_bytes())
    data[where] ^= 255
    path.write_bytes(data)
    assert cache.load(model_key) is None


@pytest.mark.parametrize("size", [0, 5, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 100])
def test_model_that_was_cut_off_is_not_used_and_kept_anew(bundle: Bundle, size: int) -> None:
    cache, model_key, path = stored_model(bundle)
    os.truncate(path, size)
    assert cache.load(model_key) is None
    cache.store(model_key, MODEL)
    assert cache.load(model_key) is not None


def test_model_replaces_those_of_other_weights_and_leaves_those_of_other_options(bundle: Bundle) -> None:
    cache, _, first = stored_model(bundle)
    other = key(bundle, options={"threads": 2})
    cache.store(other, MODEL)
    assert len(files(bundle)) == 2
    cache.store(key(bundle, "velocity_head"), MODEL)
    newer = key(bundle, engine="1.1")
    cache.store(newer, MODEL)
    assert not first.exists() and cache.load(other) is None
    assert cache.load(newer) is not None and cache.load(key(bundle, "velocity_head")) is not None


def test_model_that_is_being_read_outlives_its_replacement(bundle: Bundle) -> None:
    cache, model_key, path = stored_model(bundle)
    loaded = cache.load(model_key)
    cache.store(model_key, MODEL[::-1])
    cache.store(key(bundle, engine="1.1"), MODEL)
    assert not path.exists()
    assert loaded is not None and loaded.tobytes() == MODEL


def test_model_whose_writing_failed_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache = CompiledModels(bundle.path)
    cache.store(key(bundle), MODEL)
    assert files(bundle) == [] and cache.load(key(bundle)) is None


def test_folder_that_cannot_be_made_keeps_nothing(bundle: Bundle) -> None:
    (bundle.path / FOLDER).write_bytes(b"a file is in the way")
    cache = CompiledModels(bundle.path)
    cache.store(key(bundle), MODEL)
    assert cache.load(key(bundle)) is None


def test_leftovers_of_killed_processes_are_removed_after_an_hour(bundle: Bundle) -> None:
    """Those of older versions, whose names end in .partial, too."""
    cache, model_key, path = stored_model(bundle)
    old, new = ([path.with_name(name) for name in (f"{PARTIAL}{age}", f"{age}.partial")] for age in ("old", "new"))
    for leftover in (*old, *new):
        leftover.touch()
    before = path.stat().st_mtime - LEFTOVER_S - 1
    for leftover in old:
        os.utime(leftover, (before, before))
    cache.store(model_key, MODEL)
    assert not any(leftover.exists() for leftover in old) and all(leftover.exists() for leftover in new)


def test_bundle_with_compiled_models_opens(bundle: Bundle) -> None:
    stored_model(bundle)
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_large_models_are_not_kept(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bundle.graph("transformer", "fp32")
    assert CompiledModels.keeps(graph)
    monkeypatch.setattr(compiled, "LARGEST_BYTES", graph.resident_bytes - 1)
    assert not CompiledModels.keeps(graph)


def test_loaded_model_is_mapped_and_writing_to_it_changes_no_file(bundle: Bundle) -> None:
    cache, model_key, path = stored_model(bundle)
    loaded = cache.load(model_key)
    assert isinstance(loaded, np.memmap)
    loaded[0] = 99
    assert path.read_bytes()[HEADER_BYTES:] == MODEL
