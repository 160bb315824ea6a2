"""Figures in files, whole or not at all; progress on a terminal."""

from __future__ import annotations

import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from omnigen2_rt.commands.terminal import ProgressLine, write_json
from omnigen2_rt.runtime.errors import RequestError


@contextmanager
def small_files() -> Iterator[None]:
    """Files may have 100 bytes; no fixture, because pytest reports while those are still in force, perhaps to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_json_replaces_the_file(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    for figures in ({"a": 1}, {"b": [2.5, None]}):
        write_json(file, figures)
        assert json.loads(file.read_text(encoding="utf-8")) == figures
    write_json(None, {})
    assert list(tmp_path.iterdir()) == [file]


def test_write_json_without_room_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("old")
    with small_files(), pytest.raises(RequestError, match=r"^can't write '.*figures\.json': File too large$"):
        write_json(file, {"numbers": [*range(100)]})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("name", "reason"), [("", "Is a directory"), ("none/a.json", "No such file"), ("file/a.json", "Not a directory")]
)
def test_write_json_where_no_file_can_be_says_so(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=f"^can't write '.*': {reason}"):
        write_json(tmp_path / name, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_write_json_writes_to_a_device_as_it_is() -> None:
    with pytest.raises(RequestError, match="can't write '/dev/full': No space left on device"):
        write_json(Path("/dev/full"), {})
    assert Path("/dev/full").is_char_device()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_that_was_never_shown_leaves_the_line_alone() -> None:
    """Its end once wiped the words that a chat had just said."""
    screen = Screen("said")
    bar = ProgressLine(screen)
    bar.end()
    assert screen.getvalue() == "said"
    bar.show(1, 2, "drawing")
    bar.end()
    assert screen.getvalue().endswith("1/2 drawing, 0 s left\r\x1b[K")


def test_progress_of_other_work_begins_anew() -> None:
    """Where nothing is rewritten, the second work was never shown, and its time was taken for the first one's."""
    times = iter([0.0, 10.0, 20.0, 20.0, 22.0])
    log = io.StringIO()
    bar = ProgressLine(log, lambda: next(times))
    bar.show(1, 2, "rounding")
    bar.show(2, 2, "rounding")
    bar.show(0, 3, "drawing")
    bar.show(1, 3, "drawing")
    lines = ["1/2 rounding, 10 s left", "2/2 rounding, 0 s left", "0/3 drawing", "1/3 drawing, 4 s left"]
    assert log.getvalue().splitlines() == lines
