"""Files that grow by whole lines: several writers, and lines that a killed process cut off."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omnigen2_rt.runtime.files.kept_results import KeptResults
from omnigen2_rt.runtime.files.lines import append_lines, read_lines

OURS = b'{"ours": '


def test_lines_of_several_writers_at_once_are_all_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"

    def write(writer: int) -> None:
        for number in range(8):
            append_lines(path, [f"{writer} {number} {'x' * 5000}\n".encode()] * 2, b"")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    lines = path.read_text().splitlines()
    assert len(lines) == 4 * 8 * 2 and {line.count("x") for line in lines} == {5000}
    assert lines[::2] == lines[1::2]


@pytest.mark.parametrize("rest", [b"", b"{", b'{"ours": "half', b'{"ours": "' + b"x" * 200_000])
def test_line_of_ours_that_was_cut_off_is_removed_by_the_next_one(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"first\n" + rest)
    append_lines(path, [], OURS)
    assert path.read_bytes() == b"first\n" + rest
    append_lines(path, [b"second\n"], OURS)
    with path.open("rb") as file:
        assert list(read_lines(file)) == [b"first\n", b"second\n"]


@pytest.mark.parametrize("line", [b'{"theirs": 1}', b'{"ours": "' + b"x" * 200_000 + b'"}'])
def test_whole_line_without_its_end_is_kept_and_ended(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"first\n" + line)
    append_lines(path, [], OURS)
    assert path.read_bytes() == b"first\n" + line
    append_lines(path, [b"second\n"], OURS)
    assert path.read_bytes() == b"first\n" + line + b"\nsecond\n"


@pytest.mark.parametrize("lines", [[], [b"second\n"]])
def test_half_a_line_of_somebody_else_is_never_cut_off(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'first\n{"theirs": 1, "te')
    with pytest.raises(OSError, match="was not written by this program"):
        append_lines(path, lines, OURS)
    assert path.read_bytes() == b'first\n{"theirs": 1, "te'


@pytest.mark.parametrize("damage", [b'{"key": "a"}\n', b'{"key": 1, "result": "x"}\n', b"[]\n", b"\xff\n", b'{"key": "a", "res'])
def test_kept_result_that_is_damaged_is_computed_again(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "work.jsonl"
    kept = KeptResults(path)
    assert kept.get("question", lambda: "answer") == "answer"
    kept.close()
    before = damage if damage.endswith(b"\n") else b""
    path.write_bytes(before + path.read_bytes() + damage)
    kept = KeptResults(path)
    assert kept.get("question", lambda: "another") == "answer"
    assert kept.get("question 2", lambda: 0.5) == 0.5
    kept.close()
    again = KeptResults(path)
    assert again.get("question 2", lambda: 0.0) == 0.5
    again.close()
