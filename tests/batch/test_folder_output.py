"""A folder as the output of a batch: one batch at a time, whole files, a manifest whose last line may be cut off."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from omnigen2_rt.batch.outputs import FolderOutput
from omnigen2_rt.runtime.errors import RequestError


def test_folder_is_made_and_files_come_back(tmp_path: Path) -> None:
    output = FolderOutput(tmp_path / "new" / "out")
    assert (output.read("a.png"), output.size("a.png")) == (None, None)
    output.write("a.png", b"first")
    output.write("a.png", b"second")
    assert (output.read("a.png"), output.size("a.png")) == (b"second", 6)
    output.close()
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["a.png", "manifest.jsonl"]


def test_folder_takes_one_batch_at_a_time(tmp_path: Path) -> None:
    first = FolderOutput(tmp_path)
    with pytest.raises(RequestError, match="another batch is writing into"):
        FolderOutput(tmp_path)
    first.close()
    FolderOutput(tmp_path).close()


@pytest.mark.parametrize("below", ["", "x"])
def test_folder_that_is_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RequestError, match="is a file: name a folder|can't take pictures: Not a directory"):
        FolderOutput(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "kept"


def test_folder_without_room_is_refused_at_once(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(RequestError) as refusal:
            FolderOutput(tmp_path)
    finally:  # before pytest writes its report, perhaps to a file
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(refusal.value) == f"nothing can be written into {str(tmp_path)!r}: File too large"
    FolderOutput(tmp_path).close()


def test_manifest_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "manifest.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="can't take pictures"):
        FolderOutput(tmp_path)


def test_folder_forgets_what_a_killed_batch_was_writing(tmp_path: Path) -> None:
    for name in (".partial-0123456789abcdef", ".partial-mine", "a.png"):
        (tmp_path / name).write_bytes(b"x")
    FolderOutput(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-mine", "a.png", "manifest.jsonl"]


@pytest.mark.parametrize("whole", [b"", b"1\n", b"1\n2\n", b"x" * 200_000 + b"\n"])
@pytest.mark.parametrize("cut_off", [b"", b"{", b'{"row": 3', b'{"row": ' + b"y" * 200_000])
def test_append_replaces_a_line_that_was_cut_off(tmp_path: Path, whole: bytes, cut_off: bytes) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(whole + cut_off)
    output = FolderOutput(tmp_path)
    assert b"".join(output.lines()) == whole + cut_off
    output.append(b"4\n")
    output.append(b"5\n")
    output.close()
    assert (tmp_path / "manifest.jsonl").read_bytes() == whole + b"4\n5\n"


def test_manifest_stays_as_it_is_while_nothing_is_appended(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(b"1\n2")
    output = FolderOutput(tmp_path)
    list(output.lines())
    output.close()
    assert (tmp_path / "manifest.jsonl").read_bytes() == b"1\n2"
