"""Compiled models on disk: never an outdated or a partial one, and no error where none can be kept."""

from __future__ import annotations

import os
import shutil
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
from omnigen2_rt.runtime.files.user_cache import SECRET, UserCache, _open, user_cache
from omnigen2_rt.runtime.files.writing import PARTIAL

MODEL = bytes(range(256)) * 20
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def key(bundle: Bundle, component: str = "transformer", **changes: Any) -> dict[str, Any]:
    graph = changes.pop("graph", bundle.graph(component, "fp32"))
    return make_key(bundle, graph, **{"engine": "1.0", "cpu": "one", "options": {"threads": 1}, **changes})


def folder() -> Path:
    return user_cache().folder / FOLDER


def files() -> list[str]:
    return sorted(path.name for path in folder().iterdir())


def stored_model(bundle: Bundle) -> tuple[CompiledModels, dict[str, Any], Path]:
    """A cache that holds MODEL, its key and its file."""
    cache, model_key = CompiledModels(), key(bundle)
    cache.store(model_key, MODEL)
    return cache, model_key, folder() / files()[0]


def test_model_that_was_kept_comes_back(bundle: Bundle) -> None:
    cache, model_key, path = stored_model(bundle)
    loaded = cache.load(model_key)
    assert loaded is not None and loaded.tobytes() == MODEL
    assert path.name.startswith("transformer.fp32.") and files() == [path.name]
    assert path.stat().st_size == HEADER_BYTES + len(MODEL)


def test_model_that_was_never_kept_is_none(bundle: Bundle) -> None:
    assert CompiledModels().load(key(bundle)) is None


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
    assert len(files()) == 2
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
    cache = CompiledModels()
    cache.store(key(bundle), MODEL)
    assert files() == [] and cache.load(key(bundle)) is None


def test_folder_that_cannot_be_made_keeps_nothing(bundle: Bundle) -> None:
    folder().write_bytes(b"a file is in the way")
    cache = CompiledModels()
    cache.store(key(bundle), MODEL)
    assert cache.load(key(bundle)) is None


def test_leftovers_of_killed_processes_are_removed_after_an_hour(bundle: Bundle) -> None:
    cache, model_key, path = stored_model(bundle)
    old, new = (path.with_name(f"{PARTIAL}{digit * 16}") for digit in "01")
    somebodys = path.with_name(f"{PARTIAL}of somebody")
    before = path.stat().st_mtime - LEFTOVER_S - 1
    for leftover in (old, new, somebodys):
        leftover.touch()
    for leftover in (old, somebodys):
        os.utime(leftover, (before, before))
    cache.store(model_key, MODEL)
    assert not old.exists() and new.exists() and somebodys.exists()


def test_model_that_somebody_forged_is_not_used(bundle: Bundle) -> None:
    """A model in a bundle stated its own hash: whoever made the bundle chose what ran in the name of its graphs."""
    cache, model_key, path = stored_model(bundle)
    forger = UserCache(path.parent, b"another secret", None)
    stated = path.read_bytes()[compiled.MAC_DIGITS : HEADER_BYTES]
    forged = MODEL[::-1]
    path.write_bytes(forger.mac(compiled.PURPOSE, stated, forged).encode() + stated + forged)
    assert cache.load(model_key) is None
    path.write_bytes(user_cache().mac(compiled.PURPOSE, stated, forged).encode() + stated + forged)
    assert cache.load(model_key) is not None, "with the user's secret it is one"


def test_model_of_another_key_is_not_used_under_this_name(bundle: Bundle) -> None:
    cache, model_key, path = stored_model(bundle)
    other = key(bundle, "velocity_head")
    path.rename(folder() / compiled._name(other))
    assert cache.load(other) is None and cache.load(model_key) is None


def test_models_in_a_bundle_are_neither_read_nor_written(bundle: Bundle) -> None:
    before = sorted(bundle.path.rglob("*"))
    stored_model(bundle)
    assert sorted(bundle.path.rglob("*")) == before


def test_model_is_not_used_for_a_bundle_of_the_same_hashes_elsewhere(bundle: Bundle, tmp_path: Path) -> None:
    """Its manifest may state the hashes of another bundle, over other files with the same times."""
    cache, _, _ = stored_model(bundle)
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    assert cache.load(key(Bundle.open(copy))) is None


def test_model_is_not_used_with_weights_that_were_replaced_by_others_of_the_same_time(bundle: Bundle) -> None:
    cache, model_key, _ = stored_model(bundle)
    weights = bundle.path / WEIGHTS
    state, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert key(bundle) != model_key and cache.load(key(bundle)) is None


def test_models_beyond_the_limit_go_the_least_recently_used_first(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CompiledModels()
    keys = [key(bundle, options={"threads": threads}) for threads in range(4)]
    for number, each in enumerate(keys[:3]):
        cache.store(each, MODEL)
        os.utime(folder() / compiled._name(each), (number, number))
    assert cache.load(keys[0]) is not None  # it is the most recently used now
    monkeypatch.setattr(compiled, "MOST_BYTES", 2 * (HEADER_BYTES + len(MODEL)))
    cache.store(keys[3], MODEL)
    assert [cache.load(each) is not None for each in keys] == [True, False, False, True]


def test_dropping_outdated_models_leaves_links_and_files_that_are_none(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, model_key, path = stored_model(bundle)
    target = tmp_path / "somebody's"
    target.write_bytes(path.read_bytes())
    linked = path.with_name(f"transformer.fp32.{'0' * 16}.blob")
    linked.symlink_to(target)
    others = [path.with_name(name) for name in (f"transformer.fp32.{'1' * 16}.blob", "notes.blob")]
    for other in others:
        other.write_bytes(b"not ours")
    monkeypatch.setattr(compiled, "MOST_BYTES", 0)
    cache.store(model_key, MODEL)
    assert files() == sorted(each.name for each in (linked, *others)) and target.exists()


def test_component_of_any_name_stays_in_the_folder(bundle: Bundle) -> None:
    graph = replace(bundle.graph("transformer", "fp32"), component="../../transformer")
    cache, model_key = CompiledModels(), key(bundle, graph=graph)
    cache.store(model_key, MODEL)
    assert cache.load(model_key) is not None and len(files()) == 1


def test_models_are_not_kept_where_the_secret_cannot_be(storeless_bundle: Bundle) -> None:
    cache = CompiledModels()
    cache.store(key(storeless_bundle), MODEL)
    assert not cache._folder.parent.exists() and cache.load(key(storeless_bundle)) is None


def test_models_of_a_lost_secret_are_not_used(bundle: Bundle) -> None:
    """For example of another process that had to take a secret of its own."""
    _, model_key, path = stored_model(bundle)
    (user_cache().folder / SECRET).write_bytes(bytes(32))
    _open.cache_clear()
    assert CompiledModels().load(model_key) is None and path.exists()


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
