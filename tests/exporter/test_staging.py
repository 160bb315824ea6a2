"""The folder in which a bundle is written before it has its name: what it takes over, removes, restores and never touches."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.exporter import staging
from omnigen2_rt.exporter.staging import open_staging, prepare_target
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BundleError, ExportError
from omnigen2_rt.runtime.files.hashes import file_hash
from omnigen2_rt.runtime.files.unfinished import LOCK, MARK, NAME, NEW, OLD, PREFIX, PROGRESS, REPLACING
from omnigen2_rt.runtime.manifest import MANIFEST
from tests.exporter.staged_work import empty_bundle, killed, source_of, work

UNKNOWN = f"{PREFIX}{'0' * 32}"


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if NAME.fullmatch(path.name)]


def left_behind(target: Path, **changes: Any) -> Path:
    """The staging of a process that ended at work, with something to take over."""
    with pytest.raises(KeyboardInterrupt), open_staging(work(target, **changes)) as opened:
        opened.save_progress({"a": 1})
        raise KeyboardInterrupt
    return opened.folder


def test_killed_work_is_taken_over_by_the_same_job(tmp_path: Path) -> None:
    target = tmp_path / "m"
    killed(target, "at work")
    (folder,) = unfinished(tmp_path)
    with open_staging(work(target)) as opened:
        assert (opened.folder, opened.progress()) == (folder, {"a": 1})
        empty_bundle(opened.bundle, "new")
        opened.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["m"] and os.listdir(target) == [MANIFEST]


@pytest.mark.parametrize("change", [{"kind": "quantize"}, {"job": {"precisions": ["bf16"]}}], ids=["kind", "job"])
def test_killed_work_of_another_job_for_the_same_target_is_removed(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = left_behind(tmp_path / "m")
    with open_staging(work(tmp_path / "m", **change)) as opened:
        assert opened.folder != folder and not folder.exists() and opened.progress() == {}


def test_killed_work_for_another_target_stays(tmp_path: Path) -> None:
    folder = left_behind(tmp_path / "m")
    with open_staging(work(tmp_path / "n")) as opened:
        assert opened.folder != folder
    assert (folder / PROGRESS).exists()


def test_process_killed_as_it_makes_the_folder_leaves_nothing_for_long(tmp_path: Path) -> None:
    killed(tmp_path / "m", "as it makes the folder")
    assert len(unfinished(tmp_path)) == 1
    with open_staging(work(tmp_path / "m")) as opened:
        assert unfinished(tmp_path) == [opened.folder]


@pytest.mark.parametrize("name", [LOCK, PROGRESS, NEW, OLD])
def test_marked_folder_that_holds_a_link_is_not_trusted(name: str, tmp_path: Path) -> None:
    """A lock that was a link had the process's number written over the file that it led to."""
    precious = tmp_path / "precious"
    precious.mkdir() if name in (NEW, OLD) else precious.write_text("dear")
    folder = left_behind(tmp_path / "m")
    path = folder / name
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(precious)
    assert prepare_target(tmp_path / "m", None) == tmp_path / "m"
    with open_staging(work(tmp_path / "m")) as opened:
        assert opened.folder != folder
    assert path.is_symlink() and (precious.is_dir() or precious.read_text() == "dear")


def test_lock_with_a_second_name_is_not_written_to(tmp_path: Path) -> None:
    folder = left_behind(tmp_path / "m")
    (folder / LOCK).unlink(missing_ok=True)
    (tmp_path / "precious").write_text("dear")
    os.link(tmp_path / "precious", folder / LOCK)
    with open_staging(work(tmp_path / "m")) as opened:
        assert opened.folder != folder
    assert (tmp_path / "precious").read_text() == "dear"


def test_folder_of_our_name_without_a_mark_stays_with_what_it_holds(tmp_path: Path) -> None:
    """One that held nothing but a file named lock was removed."""
    (tmp_path / UNKNOWN).mkdir()
    (tmp_path / UNKNOWN / LOCK).write_text("notes")
    with open_staging(work(tmp_path / "m")):
        assert (tmp_path / UNKNOWN / LOCK).read_text() == "notes"


def test_bundle_that_was_finished_before_the_exchange_is_taken_over(tmp_path: Path) -> None:
    """The note that a replacement begins made the finished bundle look like the old one."""
    empty_bundle(tmp_path / "m", "old")
    folder = left_behind(tmp_path / "m", force=True)
    empty_bundle(folder / NEW, "new")
    (folder / REPLACING).write_text(file_hash(folder / NEW / MANIFEST))
    with open_staging(work(tmp_path / "m", force=True)) as opened:
        assert opened.folder == folder


def test_folders_of_the_user_are_never_touched(tmp_path: Path) -> None:
    """`<target>.partial` was taken for ours: whatever lay there was deleted, even the checkpoint that was exported."""
    kept = [tmp_path / "m.partial", tmp_path / "m.old", tmp_path / UNKNOWN, tmp_path / f"{PREFIX}letters"]
    for folder in kept:
        folder.mkdir()
        (folder / "letter").write_text("dear")
    (tmp_path / UNKNOWN / MARK).write_text("{}")  # our name, and a mark that isn't ours
    with open_staging(work(tmp_path / "m", reads=[tmp_path / "m.partial"])) as opened:
        empty_bundle(opened.bundle, "new")
        opened.publish()
    assert [(folder / "letter").read_text() for folder in kept] == ["dear"] * 4


def test_marked_folder_behind_a_link_or_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = left_behind(tmp_path / "m")
    os.rename(folder, elsewhere / folder.name)
    folder.symlink_to(elsewhere / folder.name)
    with open_staging(work(tmp_path / "m")) as opened:
        assert opened.progress() == {}
    assert (elsewhere / folder.name / PROGRESS).exists()
    folder.unlink()
    other = left_behind(tmp_path / "m")
    monkeypatch.setattr(os, "geteuid", lambda: other.stat().st_uid + 1, raising=False)
    with open_staging(work(tmp_path / "m")) as opened:
        assert opened.progress() == {}
    assert (other / PROGRESS).exists()


def test_leftover_that_holds_what_is_read_is_refused(tmp_path: Path) -> None:
    folder = left_behind(tmp_path / "m")
    empty_bundle(folder / NEW, "source")
    with pytest.raises(ExportError, match=r"holds '.*new', which is read"), open_staging(
        work(tmp_path / "m", kind="quantize", reads=[folder / NEW])
    ):
        pass
    assert source_of(folder / NEW) == "source"


@pytest.mark.parametrize("change", [{}, {"kind": "quantize"}, {"job": {}}, {"force": True}], ids=str)
def test_second_process_at_the_same_target_is_told_who_is_at_work(tmp_path: Path, change: dict[str, Any]) -> None:
    """Two exports into one target ended as a bundle with the name of one checkpoint and the weights of the other."""
    with open_staging(work(tmp_path / "m")) as opened:
        expected = rf"^process {os.getpid()}, since [-0-9]+ [:0-9]+, is writing '.*m' \(export of 'checkpoint'\): wait"
        with pytest.raises(ExportError, match=expected), open_staging(work(tmp_path / "m", **change)):
            pass
        empty_bundle(opened.bundle, "first")
        opened.publish()
    assert source_of(tmp_path / "m") == "first" and unfinished(tmp_path) == []


def test_processes_at_different_targets_work_side_by_side(tmp_path: Path) -> None:
    with open_staging(work(tmp_path / "m")) as first, open_staging(work(tmp_path / "n")) as second:
        assert first.folder != second.folder


def test_failed_work_without_anything_to_take_over_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_staging(work(tmp_path / "m")) as opened:
        (opened.bundle / "half.onnx").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_bundle_is_replaced_in_one_step_or_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = empty_bundle(tmp_path / "m", "one")
    for source in ("two", "three"):
        with open_staging(work(target, force=True)) as opened:
            empty_bundle(opened.bundle, source)
            opened.publish()
        assert source_of(target) == source and os.listdir(tmp_path) == ["m"]
        monkeypatch.setattr(staging, "exchange", lambda *_: False)


def test_second_rename_that_fails_undoes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = empty_bundle(tmp_path / "m", "old")
    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    with pytest.raises(FileNotFoundError), open_staging(work(target, force=True)) as opened:
        opened.bundle.rmdir()
        opened.publish()
    assert source_of(target) == "old" and os.listdir(tmp_path) == ["m"]


def test_bundle_whose_replacement_was_killed_between_two_renames_is_restored(tmp_path: Path) -> None:
    """It left no bundle, and an orphan that nothing found again."""
    target = empty_bundle(tmp_path / "m", "old")
    killed(target, "between two renames")
    (folder,) = unfinished(tmp_path)
    with pytest.raises(BundleError, match=rf"it was being replaced when .*, or rename {folder.name}/{OLD} back"):
        Bundle.open(target)
    with pytest.raises(ExportError, match="exists: choose another name, or replace it with --force"):
        prepare_target(target, force=False)
    assert source_of(target) == "old"
    with open_staging(work(target, force=True)) as opened:
        assert opened.folder == folder and opened.progress() == {"a": 1}
        assert not (opened.bundle / MANIFEST).exists()  # it is not whole before it is written anew
        empty_bundle(opened.bundle, "new")
        opened.publish()
    assert source_of(target) == "new" and os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("moment", ["after two renames", "after the exchange"])
def test_old_bundle_that_a_killed_process_did_not_remove_is_removed(tmp_path: Path, moment: str) -> None:
    target = empty_bundle(tmp_path / "m", "old")
    killed(target, moment)
    assert source_of(target) == "new" and len(unfinished(tmp_path)) == 1
    with pytest.raises(ExportError, match="exists"):
        prepare_target(target, force=False)
    assert source_of(target) == "new" and os.listdir(tmp_path) == ["m"]


def test_old_bundle_stays_where_something_else_took_its_name(tmp_path: Path) -> None:
    """The only copy of the old bundle lies in the staging then."""
    target = empty_bundle(tmp_path / "m", "old")
    killed(target, "between two renames")
    (folder,) = unfinished(tmp_path)
    empty_bundle(target, "third")
    with open_staging(work(target, force=True)) as opened:
        empty_bundle(opened.bundle, "fourth")
        opened.publish()
    assert (source_of(target), source_of(folder / OLD)) == ("fourth", "old")


def test_target_that_appears_during_the_work_is_kept_and_so_is_the_work(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"exists: .*; the finished bundle lies in '.*/{NEW}'$"):
        with open_staging(work(tmp_path / "m")) as opened:
            empty_bundle(opened.bundle, "new")
            empty_bundle(tmp_path / "m", "another")
            opened.publish()
    assert (source_of(tmp_path / "m"), source_of(opened.bundle)) == ("another", "new")


def test_target_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    """The link itself was renamed away and stayed as an orphan."""
    (tmp_path / "disk").mkdir()
    real = empty_bundle(tmp_path / "disk" / "m", "old")
    (tmp_path / "link").symlink_to(real)
    with open_staging(work(prepare_target(tmp_path / "link", force=True), force=True)) as opened:
        empty_bundle(opened.bundle, "new")
        opened.publish()
    assert source_of(tmp_path / "link") == source_of(real) == "new" and (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"] and os.listdir(tmp_path / "disk") == ["m"]


def test_missing_bundle_that_is_unfinished_says_where_it_lies(tmp_path: Path) -> None:
    folder = left_behind(tmp_path / "m")
    with pytest.raises(BundleError, match=rf"it is unfinished, in {folder.name} beside it; run the same `omnigen2 export`"):
        Bundle.open(tmp_path / "m")


def refuse_locks(*_: object) -> bool:
    raise OSError(37, "No locks available")


def test_without_locks_nothing_is_taken_over_or_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network filesystems have none: another process may be at work in the folder that is found."""
    folder = left_behind(tmp_path / "m")
    monkeypatch.setattr(staging, "try_lock", refuse_locks)
    with open_staging(work(tmp_path / "m")) as opened:
        assert opened.folder != folder
        empty_bundle(opened.bundle, "new")
        opened.publish()
    assert source_of(tmp_path / "m") == "new" and (folder / PROGRESS).exists()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no mark": lambda folder: (folder / MARK).unlink(),
    "half a mark": lambda folder: (folder / MARK).write_text('{"kind": "exp'),
    "a mark of other things": lambda folder: (folder / MARK).write_text(json.dumps({"target": 3})),
    "deep mark": lambda folder: (folder / MARK).write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_folder_with_a_damaged_mark_is_left_alone(tmp_path: Path, damage: str) -> None:
    folder = left_behind(tmp_path / "m")
    DAMAGES[damage](folder)
    with open_staging(work(tmp_path / "m")) as opened:
        assert opened.folder != folder
    assert (folder / PROGRESS).exists()


@pytest.mark.parametrize("progress", ["[" * 100_000, "{", "[]"], ids=["deep", "half", "list"])
def test_damaged_progress_counts_as_none(tmp_path: Path, progress: str) -> None:
    folder = left_behind(tmp_path / "m")
    (folder / PROGRESS).write_text(progress)
    with open_staging(work(tmp_path / "m")) as opened:
        assert (opened.folder, opened.progress()) == (folder, {})


def test_work_that_saved_no_progress_begins_anew(tmp_path: Path) -> None:
    """Files of the killed process would lie in the new bundle."""
    killed(tmp_path / "m", "before any progress")
    (folder,) = unfinished(tmp_path)
    assert (folder / NEW / "calibration.onnx").exists()
    with open_staging(work(tmp_path / "m")) as opened:
        assert opened.folder != folder and os.listdir(opened.bundle) == [] and not folder.exists()
