"""Records of engines that may come from anywhere: none lets an engine run that this user neither built nor trusts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.exporter.engines.build import engine_list, trust_engines
from omnigen2_rt.exporter.engines.engine_store import build_lock, prune, stored_engine
from omnigen2_rt.exporter.engines.options import EngineOptions
from omnigen2_rt.runtime.backends.tensorrt import records
from omnigen2_rt.runtime.backends.tensorrt.engines import find_engine
from omnigen2_rt.runtime.backends.tensorrt.records import FOLDER, KEY, OPTIONS, engine_name
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError, ExportError
from omnigen2_rt.runtime.files.user_cache import UserCache
from tests.exporter.engines.small_bundle import MACHINE, make_bundle, make_test_key, store_plan

PLAN = b"a plan"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    other = UserCache(Path("elsewhere"), b"another secret", None)
    monkeypatch.setattr(records, "user_cache", lambda: other)


def find(bundle: Bundle, **settings: Any) -> records.EngineRecord:
    return find_engine(bundle, "transformer", "fp16", MACHINE, **settings)


def write_record(bundle: Bundle, key: dict[str, Any], **changes: Any) -> Path:
    """A forged engine: its record is consistent, and its MAC is copied from an engine that this user built."""
    own = store_plan(bundle.path, make_test_key(bundle), PLAN)
    name = engine_name(key)
    (bundle.path / FOLDER / f"{name}.plan").write_bytes(PLAN)
    record = {**dataclasses.asdict(own), "key": key, "plan": f"{name}.plan", **changes}
    for path in (bundle.path / FOLDER).glob(f"{own.name}.*"):
        if own.name != name:
            path.unlink()
    file = bundle.path / FOLDER / f"{name}.json"
    file.write_text(json.dumps({part: value for part, value in record.items() if value is not ...}))
    return file


def test_engine_of_another_user_runs_only_where_the_caller_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records vouched for themselves: whoever made a bundle could have its engines' code run."""
    key = make_test_key(bundle)
    record = store_plan(bundle.path, key, PLAN)
    assert find(bundle) == record
    as_another_user(monkeypatch)
    with pytest.raises(BackendError, match=r"this user did not build it; .*`omnigen2 build --trust`, or trust_engines=True"):
        find(bundle)
    assert find(bundle, trusts_all=True) == record
    assert stored_engine(bundle.path, key) is None, "a build makes its own"


def test_engine_of_another_user_runs_once_it_is_trusted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    record = store_plan(bundle.path, make_test_key(bundle), PLAN)
    as_another_user(monkeypatch)
    assert "built elsewhere" in engine_list(bundle.path)[0]
    assert trust_engines(bundle.path) == [record.name]
    assert find(bundle).sha256 == record.sha256 and trust_engines(bundle.path) == []
    assert "built elsewhere" not in engine_list(bundle.path)[0]


def test_trust_that_cannot_be_kept_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = UserCache(Path("nowhere"), b"of this process", "the folder is read-only")
    monkeypatch.setattr("omnigen2_rt.exporter.engines.build.user_cache", lambda: cache)
    with pytest.raises(ExportError, match="trust can't be kept: the folder is read-only"):
        trust_engines(bundle.path)


def test_record_with_a_mac_of_another_record_is_not_used(bundle: Bundle) -> None:
    options = EngineOptions(version_compatible=True, hardware_compatibility="ampere_plus").to_json()
    write_record(bundle, make_test_key(bundle, options=options))
    with pytest.raises(BackendError, match="this user did not build it"):
        find(bundle)


@pytest.mark.parametrize("level", ["everything", "", None, True, ["none"], {}, "NONE"], ids=repr)
def test_record_with_an_unknown_hardware_compatibility_is_not_used(bundle: Bundle, level: Any) -> None:
    """Any other value than "none" lifted the checks of GPU and driver."""
    options = {**EngineOptions().to_json(), "hardware_compatibility": level}
    write_record(bundle, make_test_key(bundle, gpu="NVIDIA Test 2", driver="1", options=options))
    for trusts_all in (False, True):
        with pytest.raises(BackendError, match=r"has key\.options\.hardware_compatibility .*, which is not allowed"):
            find(bundle, trusts_all=trusts_all)


@pytest.mark.parametrize("part", [*KEY, "unknown"])
def test_record_whose_key_lacks_a_part_or_has_another_is_not_used(bundle: Bundle, part: str) -> None:
    """A key without `tensorrt` or `options` ended in a KeyError."""
    key = make_test_key(bundle)
    file = write_record(bundle, key)
    changed = {**key, part: 1} if part == "unknown" else {name: value for name, value in key.items() if name != part}
    file.write_text(json.dumps({**json.loads(file.read_text()), "key": changed}))
    reason = "holds key.unknown, which is unknown" if part == "unknown" else f"lacks key.{part}"
    with pytest.raises(BackendError, match=reason):
        find(bundle, trusts_all=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mac": ...}, "lacks mac"),
        ({"mac": None}, "has mac 'None', which is not allowed"),
        ({"size_bytes": True}, "has size_bytes"),
        ({"report": []}, "has report"),
        ({"surplus": 1}, "holds surplus, which is unknown"),
        ({"plan": "../../w.bin"}, "is not the record of the key that it states"),
        ({"sha256": "0" * 64}, "has other bytes than were built"),
    ],
)
def test_record_of_other_fields_is_not_used(bundle: Bundle, change: dict[str, Any], reason: str) -> None:
    write_record(bundle, make_test_key(bundle), **change)
    with pytest.raises(BackendError, match=reason):
        find(bundle, trusts_all=True)


@pytest.mark.parametrize("profiles", [[{"name": "text"}], [1], {}, [{"name": "t", "shapes": {"x": [[1], [1]]}}]])
def test_record_with_profiles_of_another_form_is_not_used(bundle: Bundle, profiles: Any) -> None:
    write_record(bundle, make_test_key(bundle, profiles=profiles))
    with pytest.raises(BackendError, match=r"has key\.profiles"):
        find(bundle, trusts_all=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"{", "is not JSON"), (b"[]", "is not a JSON object"), (b"[" * 10**5, "nested too deeply"), (b" " * 2**21, "larger than")],
    ids=["cut", "list", "deep", "large"],
)
def test_record_that_is_no_json_object_is_not_used_and_listed(bundle: Bundle, content: bytes, reason: str) -> None:
    record = store_plan(bundle.path, make_test_key(bundle), PLAN)
    (bundle.path / FOLDER / f"{record.name}.json").write_bytes(content)
    with pytest.raises(BackendError, match=reason):
        find(bundle)
    assert engine_list(bundle.path)[0].startswith(f"not used: {record.name}.json ")


def test_store_of_fifos_folders_and_dangling_links_is_read_without_waiting(bundle: Bundle) -> None:
    record = store_plan(bundle.path, make_test_key(bundle), PLAN)
    folder, end = bundle.path / FOLDER, "0" * 15
    os.mkfifo(folder / f"transformer.fp16.{end}1.json")
    os.mkfifo(folder / ".x.lock")
    (folder / f"transformer.fp16.{end}2.json").mkdir()
    (folder / f"transformer.fp16.{end}3.json").symlink_to("nowhere")
    assert find(bundle) == record
    assert prune(bundle.path, lambda record: True) == ([], 0)


def test_prune_removes_no_file_of_another_name_and_no_link(bundle: Bundle, tmp_path: Path) -> None:
    """Everything that ended in .plan or .json went, whoever had made it."""
    record = store_plan(bundle.path, make_test_key(bundle), PLAN)
    folder, kept = bundle.path / FOLDER, tmp_path / "kept.plan"
    kept.write_bytes(b"somebody's")
    others = [folder / name for name in ("notes.json", "my.plan", "x.fp16.0123.plan", ".partial-mine", "timing.cache")]
    for other in others:
        other.write_text("{}")
    (folder / f"transformer.fp16.{'0' * 16}.plan").symlink_to(kept)
    removed, _ = prune(bundle.path, lambda record: False)
    assert sorted(removed) == [f"{record.name}.json", f"{record.name}.plan"]
    assert all(other.exists() for other in others) and kept.read_bytes() == b"somebody's"


def test_engines_folder_that_is_a_link_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Through it, --prune deleted files of other people."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    leftover = elsewhere / f"transformer.fp16.{'0' * 16}.plan"
    leftover.write_bytes(b"somebody's")
    (bundle.path / FOLDER).symlink_to(elsewhere)
    actions = [
        lambda: prune(bundle.path, lambda record: True),
        lambda: engine_list(bundle.path),
        lambda: trust_engines(bundle.path),
        lambda: store_plan(bundle.path, make_test_key(bundle), PLAN),
        lambda: stored_engine(bundle.path, make_test_key(bundle)),
        lambda: build_lock(bundle.path, "x").__enter__(),
        lambda: find(bundle),
    ]
    for action in actions:
        with pytest.raises(BackendError, match="engines' is a link, and engines are kept in the bundle itself"):
            action()
    assert [path.name for path in elsewhere.iterdir()] == [leftover.name] and leftover.read_bytes() == b"somebody's"


def test_lock_that_is_a_link_is_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / FOLDER).mkdir()
    (bundle.path / FOLDER / ".x.lock").symlink_to(tmp_path / "made by us")
    with pytest.raises(ExportError, match="can't write to"), build_lock(bundle.path, "x"):
        pass
    assert not (tmp_path / "made by us").exists()


def test_component_that_cannot_be_a_file_name_has_no_engine(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="can't be an engine's name"):
        store_plan(bundle.path, make_test_key(bundle, component="../../transformer"), PLAN)


def test_record_options_are_those_of_a_build() -> None:
    assert OPTIONS.keys() == EngineOptions().to_json().keys()
