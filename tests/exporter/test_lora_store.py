"""The places of merged bundles, and their removal: nothing goes but what was made here."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from omnigen2_rt import load
from omnigen2_rt.commands.batch import held
from omnigen2_rt.exporter import lora_store, staging
from omnigen2_rt.exporter.engines.engine_store import build_lock
from omnigen2_rt.exporter.lora_bundle import Lora, merged_bundle
from omnigen2_rt.exporter.lora_store import Removal, merge_key, remove_stored, store_folders, stored_bundles
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BundleError, ExportError
from omnigen2_rt.runtime.files.locking import folder_lock, unheld
from omnigen2_rt.runtime.files.unfinished import MARK, NAME, PREFIX
from omnigen2_rt.runtime.files.user_cache import UserCache, user_cache
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest, MergedLora
from omnigen2_rt.runtime.pipeline import NANO
from tests.exporter.checkpoints import in_hub_layout
from tests.exporter.merged_loras import MODULES, files_below, killed_merge, nano_lora

SHA = "0123456789abcdef" * 4


def merged(tmp_path: Path, seed: int = 0) -> Path:
    """A merged bundle in `tmp_path`/store."""
    file = nano_lora(tmp_path / f"{seed}.safetensors", seed)
    return merged_bundle(NANO, [Lora(path=file)], folder=tmp_path / "store").path


def test_store_of_a_bundle_lies_beside_it(tmp_path: Path) -> None:
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    (tmp_path / "link").symlink_to(bundle)
    assert store_folders(bundle) == store_folders(tmp_path / "link") == (tmp_path.resolve() / "bundle.loras",)
    assert store_folders(bundle, tmp_path / "there") == (tmp_path.resolve() / "there",)


def test_store_of_the_model_that_ships_and_of_a_hub_lies_in_the_users_cache(tmp_path: Path) -> None:
    """Neither an installed package nor a hub's cache is a place for other files."""
    snapshot = in_hub_layout(NANO, tmp_path, "owner", "name")
    folders = {*store_folders(NANO), *store_folders(snapshot)}
    assert len(folders) == 2 and {folder.parent for folder in folders} == {user_cache().folder / "loras"}


def test_store_of_a_bundle_in_a_folder_that_can_not_be_written_lies_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (folder,) = store_folders(bundle)
    assert folder.parent == user_cache().folder / "loras"
    monkeypatch.setattr(lora_store, "user_cache", lambda: UserCache(tmp_path, b"", "there is no home"))
    with pytest.raises(ExportError, match="can't lie beside '.*bundle', and there is no home: name a folder with --lora-dir"):
        store_folders(bundle)
    (tmp_path / "bundle.loras").mkdir()
    assert store_folders(bundle) == (tmp_path.resolve() / "bundle.loras",)


def test_store_that_can_not_be_written_is_searched_and_new_bundles_lie_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merging failed where a BUNDLE.loras was there that belongs to somebody else."""
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    a, b = (Lora(path=nano_lora(tmp_path / f"{seed}.safetensors", seed)) for seed in range(2))
    shared = merged_bundle(bundle, [a])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    beside, cache = store_folders(bundle)
    assert (beside, cache.parent) == (tmp_path.resolve() / "bundle.loras", user_cache().folder / "loras")
    found = merged_bundle(bundle, [a])
    assert (found.path, found.is_new) == (shared.path, False)
    own = merged_bundle(bundle, [b])
    assert own.is_new and own.path.parent == cache
    assert {stored.path for stored in stored_bundles(bundle)} == {shared.path, own.path}
    monkeypatch.undo()  # it can be written again
    assert store_folders(bundle) == (cache, beside) and merged_bundle(bundle, [b]).path == own.path
    assert {stored.path for stored in stored_bundles(bundle)} == {shared.path, own.path}
    assert len(remove_stored(bundle).removed) == 2 and not cache.exists()


def test_bundle_of_a_hub_is_merged_from_the_files_behind_its_links(tmp_path: Path) -> None:
    snapshot = in_hub_layout(NANO, tmp_path, "owner", "name")
    file = nano_lora(tmp_path / "a.safetensors")
    found = merged_bundle(snapshot, [Lora(path=file)], folder=tmp_path / "store")
    weights = "mllm/model.safetensors"
    assert (found.path / weights).samefile(snapshot / weights) and not (found.path / weights).is_symlink()
    Bundle.open(found.path).verify()


def test_key_depends_on_contents_and_not_on_names() -> None:
    lora = MergedLora(name="a", sha256=SHA, scale=1.0)
    assert merge_key(SHA, [lora]) == merge_key(SHA, [replace(lora, name="b")])
    others = [[], [lora, lora], [replace(lora, scale=0.5)], [replace(lora, settings_sha256=SHA)]]
    keys = {merge_key(SHA, [lora]), merge_key(SHA[::-1], [lora]), *(merge_key(SHA, other) for other in others)}
    assert len(keys) == 6


def test_list_says_what_a_removal_frees(tmp_path: Path) -> None:
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    path = merged_bundle(bundle, [Lora(path=nano_lora(tmp_path / "0.safetensors"))]).path
    (found,) = stored_bundles(bundle)
    own = sum(state.st_size for state in files_below(path).values() if state.st_nlink == 1)
    assert (found.path, found.size_bytes) == (path, own) and own < 2_000_000
    assert [lora.name for lora in found.loras] == ["0.safetensors"]


def test_removal_takes_merged_bundles_and_leaves_the_original(tmp_path: Path) -> None:
    before = {name: (state.st_ino, state.st_mtime_ns, state.st_nlink) for name, state in files_below(NANO).items()}
    paths = {merged(tmp_path, 0), merged(tmp_path, 1)}
    removal = remove_stored(NANO, tmp_path / "store")
    assert {bundle.path for bundle in removal.removed} == paths and not removal.kept
    assert not [*(tmp_path / "store").iterdir()]
    assert {name: (state.st_ino, state.st_mtime_ns, state.st_nlink) for name, state in files_below(NANO).items()} == before
    Bundle.open(NANO).verify()
    assert not remove_stored(NANO, tmp_path / "store").removed


def test_removal_leaves_everything_that_is_no_merged_bundle(tmp_path: Path) -> None:
    store, key = tmp_path / "store", "0" * 32
    path = merged(tmp_path)
    outside = shutil.copytree(path, tmp_path / "outside" / path.name)
    shutil.copytree(path, store / key)  # not named by its key
    shutil.copytree(NANO, store / ("1" * 32))  # no merged bundle
    (store / ("2" * 32)).mkdir()
    (store / ("3" * 32)).symlink_to(outside)
    (store / "notes.txt").touch()
    shutil.copytree(path, store / "mine")
    before = files_below(tmp_path)
    removal = remove_stored(NANO, store)
    assert [bundle.path for bundle in removal.removed] == [path]
    left = {name for name in before if not name.startswith(f"store/{path.name}/")}
    assert {*files_below(tmp_path)} == left


@pytest.mark.parametrize("what", ["file", "file like a lock", "linked file", "linked folder", "linked manifest"])
def test_removal_leaves_a_merged_bundle_that_holds_something_else(what: str, tmp_path: Path) -> None:
    """A link could lead out of it."""
    path = merged(tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "picture.png").touch()
    if what == "file":
        (path / "picture.png").touch()
    elif what == "file like a lock":
        (path / "engines" / ".mine").mkdir(parents=True)
        (path / "engines" / ".mine" / "x.lock").touch()
    elif what == "linked file":
        (path / "picture.png").symlink_to(tmp_path / "outside" / "picture.png")
    elif what == "linked folder":
        (path / "engines").symlink_to(tmp_path / "outside")
    else:
        (path / MANIFEST).rename(tmp_path / "outside" / MANIFEST)
        (path / MANIFEST).symlink_to(tmp_path / "outside" / MANIFEST)
    before = {*files_below(tmp_path)}
    removal = remove_stored(NANO, tmp_path / "store")
    assert not removal.removed and [*removal.kept] == ([] if what == "linked manifest" else [path])
    assert {*files_below(tmp_path)} == before


def test_removal_that_is_stopped_midway_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, store = merged(tmp_path), tmp_path / "store"

    def stop(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(staging, "_remove", stop)
        remove_stored(NANO, store)
    assert not path.exists() and [NAME.fullmatch(entry.name) is not None for entry in store.iterdir()] == [True]
    assert not remove_stored(NANO, store).removed and not [*store.iterdir()]


def test_removal_takes_what_a_killed_merge_left(tmp_path: Path) -> None:
    killed_merge(nano_lora(tmp_path / "a.safetensors"), tmp_path / "store", "merging LoRAs")
    remove_stored(NANO, tmp_path / "store")
    assert not [*(tmp_path / "store").iterdir()]


@pytest.mark.parametrize("place", ["thesis.txt", "new/transformer/thesis.txt", "mine/model.onnx"])
def test_folder_of_unfinished_work_that_holds_a_users_file_stays(place: str, tmp_path: Path) -> None:
    store, file = tmp_path / "store", nano_lora(tmp_path / "a.safetensors")
    killed_merge(file, store, "merging LoRAs")
    (folder,) = store.iterdir()
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).touch()
    before = {*files_below(folder)}
    assert remove_stored(NANO, store).kept == {folder: f"it holds {place!r}, which this program didn't write"}
    assert merged_bundle(NANO, [Lora(path=file)], folder=store).is_new and {*files_below(folder)} == before


@pytest.mark.parametrize("content", [b"mine", None])
def test_removal_leaves_a_merged_bundle_with_a_file_that_was_replaced(content: bytes | None, tmp_path: Path) -> None:
    path, name = merged(tmp_path), "transformer/merged_lora.safetensors"
    own = (path / name).read_bytes()
    (tmp_path / "mine").write_bytes(content or own[:-1] + bytes([own[-1] ^ 1]))
    (tmp_path / "mine").replace(path / name)
    assert [*remove_stored(NANO, tmp_path / "store").kept] == [path]
    (path / name).write_bytes(own)
    assert len(remove_stored(NANO, tmp_path / "store").removed) == 1


def test_folder_of_unfinished_work_that_nobody_here_made_stays(tmp_path: Path) -> None:
    """Whoever packs an archive can write such a name and such a mark."""
    store = tmp_path / "store"
    killed_merge(nano_lora(tmp_path / "a.safetensors"), store, "merging LoRAs")
    (own,) = store.iterdir()
    forged = store / f"{own.name[:-1]}{'1' if own.name.endswith('0') else '0'}"
    shutil.copytree(own, forged)
    (forged / "thesis.txt").touch()
    without = store / f"{PREFIX}{'a' * 32}"
    without.mkdir()
    (without / MARK).write_text('{"kind": "merge", "target": "file:///x"}')
    remove_stored(NANO, store)
    assert {*store.iterdir()} == {forged, without} and (forged / "thesis.txt").exists()


def test_merged_bundles_of_another_bundle_in_the_same_folder_stay(tmp_path: Path) -> None:
    """`omnigen2 lora A --prune --lora-dir X` removed those of B as well."""
    store, bundle = tmp_path / "store", shutil.copytree(NANO, tmp_path / "bundle")
    manifest = Bundle.open(NANO).manifest
    (bundle / MANIFEST).write_text(replace(manifest, source="another").to_json())
    file = nano_lora(tmp_path / "a.safetensors")
    of_nano, other = (merged_bundle(each, [Lora(path=file)], folder=store).path for each in (NANO, bundle))
    assert [stored.path for stored in stored_bundles(bundle, store)] == [other]
    assert [stored.path for stored in remove_stored(NANO, store).removed] == [of_nano]
    assert [*store.iterdir()] == [other]
    with pytest.raises(BundleError, match="'.*none' is not a bundle: bundle.json: No such file"):
        stored_bundles(tmp_path / "none", store)


@pytest.mark.parametrize("is_chosen", [False, True])
def test_removal_takes_what_was_merged_further(is_chosen: bool, tmp_path: Path) -> None:
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    folder = tmp_path / "store" if is_chosen else None
    a, b, c = (Lora(path=nano_lora(tmp_path / f"{seed}.safetensors", seed, MODULES[:1])) for seed in range(3))
    first = merged_bundle(bundle, [a], folder=folder).path
    second = merged_bundle(first, [b]).path  # beside the first
    third = merged_bundle(second, [c], folder=folder).path
    assert second.parent == first.with_name(f"{first.name}.loras")
    (first / "notes.txt").touch()
    assert {stored.path for stored in stored_bundles(bundle, folder)} == {first, second, third}
    removal = remove_stored(bundle, folder)
    assert {stored.path for stored in removal.removed} == {second, third}
    assert removal.kept == {first: "it holds 'notes.txt', which isn't part of it"} and not second.parent.exists()


def test_removal_keeps_a_bundle_that_is_in_use_and_the_one_it_was_merged_from(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = merged(tmp_path)
    second = merged_bundle(first, [Lora(path=nano_lora(tmp_path / "b.safetensors", 1))], folder=store).path
    with load(second, backend="ort-cpu"):
        removal = remove_stored(NANO, store)
    assert removal.kept == {second: "it is in use", first: "another one that stays was merged from it"}
    engine = f"{'transformer.fp32.'}{'0' * 16}"
    with build_lock(second, engine):
        assert remove_stored(NANO, store).kept[second] == "it is in use"
    assert (second / "engines" / f".{engine}.lock").is_file() and len(remove_stored(NANO, store).removed) == 2


def test_bundle_that_is_opened_while_the_removal_waits_stays(tmp_path: Path) -> None:
    """It was looked at once, and removed when the store's lock was free, up to ten seconds later."""
    path, store = merged(tmp_path), tmp_path / "store"
    with ThreadPoolExecutor(1) as thread:
        with folder_lock(store):
            removal = thread.submit(remove_stored, NANO, store)
            time.sleep(0.2)
            pipeline = load(path, backend="ort-cpu")
        with pipeline:
            assert removal.result().kept == {path: "it is in use"}


def test_bundle_that_is_removed_while_a_pipeline_opens_it_is_reported(tmp_path: Path) -> None:
    path = merged(tmp_path)
    with ThreadPoolExecutor(1) as thread:
        with unheld(path) as is_free:
            assert is_free
            pipeline = thread.submit(load, path, backend="ort-cpu")
            time.sleep(0.2)
            assert not pipeline.done()
            path.rename(tmp_path / "gone")
        with pytest.raises(BundleError, match="is not a bundle: No such file or directory"):
            pipeline.result()


def test_bundles_that_another_process_removes_meanwhile_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, store = [merged(tmp_path, 0), merged(tmp_path, 1)], tmp_path / "store"
    (gone,) = [found for found in stored_bundles(NANO, store) if found.path == paths[0]]
    first = remove_stored(NANO, store)
    monkeypatch.setattr(lora_store, "stored_bundles", lambda *words: [gone])
    assert len(first.removed) == 2 and remove_stored(NANO, store) == Removal(removed=(), kept={})
    monkeypatch.undo()
    path = merged(tmp_path)
    monkeypatch.setattr(lora_store, "_files", lambda folder: [*map(str, path.iterdir()), str(path / "gone")])
    assert stored_bundles(NANO, store) == []


def test_what_was_merged_further_into_the_cache_is_found_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, store = merged(tmp_path), tmp_path / "store"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    second = merged_bundle(first, [Lora(path=nano_lora(tmp_path / "b.safetensors", 1))]).path
    assert second.parent.parent == user_cache().folder / "loras"
    assert {stored.path for stored in stored_bundles(NANO, store)} == {first, second}
    assert len(remove_stored(NANO, store).removed) == 2 and not second.parent.exists()


def test_batch_holds_its_bundle(tmp_path: Path) -> None:
    path = merged(tmp_path)
    with held(str(path)):
        assert remove_stored(NANO, tmp_path / "store").kept == {path: "it is in use"}
    assert len(remove_stored(NANO, tmp_path / "store").removed) == 1


def test_manifest_names_the_merged_loras(tmp_path: Path) -> None:
    manifest = Bundle.open(merged(tmp_path)).manifest
    assert Manifest.from_json(manifest.to_json(), MANIFEST) == manifest and manifest.merged_from is not None
    assert (manifest.loras[0].name, manifest.loras[0].scale) == ("0.safetensors", 1.0)
