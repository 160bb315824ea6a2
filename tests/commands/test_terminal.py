"""Figures in files, whole or not at all; progress on a terminal."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from omnigen2_rt.commands.terminal import ProgressLine, check_json_file, say, say_lines, show, write_json
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
    assert screen.getvalue().endswith("1/2 drawing\r\x1b[K")


def shown_lines(calls: list[tuple[float, int, int, str]]) -> list[str]:
    """The lines that a log gets of these calls, each with its time."""
    times = iter([time for time, *_ in calls])
    log = io.StringIO()
    bar = ProgressLine(log, lambda: next(times))
    for _, *call in calls:
        bar.show(*call)
    return log.getvalue().splitlines()


def test_progress_of_other_work_begins_anew() -> None:
    """Regression: where nothing is rewritten, the second work was never shown, and its time was taken for the first one's."""
    rounding = [(20.0 * done, done, 10, "rounding") for done in (1, 5, 10)]
    drawing = [(200.0 + 3.0 * done, done, 10, "drawing") for done in (0, 1, 2, 3)]
    assert shown_lines(rounding + drawing) == [
        "1/10 rounding", "5/10 rounding, 100 s left", "10/10 rounding",
        "0/10 drawing", "1/10 drawing", "2/10 drawing", "3/10 drawing, 21 s left",
    ]  # fmt: skip


def test_progress_estimate_leaves_out_the_first_piece() -> None:
    """The first line of `eval` said 35 s of what took 5: the first answer also opens every component."""
    lines = shown_lines([(7.0, 1, 10, "one object"), (7.6, 2, 10, "one object"), (8.2, 3, 10, "one object")])
    assert lines == ["1/10 one object", "2/10 one object", "3/10 one object, 4 s left"]


def test_progress_of_a_few_stages_has_no_estimate() -> None:
    """Scoring takes longer than all of quantize's other stages, whose pace was taken for it."""
    assert shown_lines([(2.0 * k, k, 5, "stage") for k in range(5)])[-1] == "4/5 stage"


def test_progress_shows_what_a_terminal_would_execute() -> None:
    assert shown_lines([(0.0, 0, 1, "a\x1b[2J\nb\u202e")]) == ["0/1 a\\x1b[2J\\nb\\u202e"]


HOSTILE = "\x1b]0;owned\x07\x9b2J\u202etxt\u2028\x7f\r"


def test_facts_show_what_a_terminal_would_execute_each_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """`info` let the metadata of a picture clear the screen and print lines of its own."""
    show({"prompt": f"{HOSTILE}\nchecked: every byte", HOSTILE: {"猫 ❤️‍🔥": "は　は"}}, False)
    escaped = r"\x1b]0;owned\x07\x9b2J\u202etxt\u2028\x7f\r"
    assert capsys.readouterr().out == f"prompt: {escaped}\\nchecked: every byte\n{escaped}:\n  猫 ❤️‍🔥: は　は\n"


def test_facts_as_json_hold_escapes_and_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"prompt": f"{HOSTILE}\n猫\ud800"}
    show(facts, True)
    printed = capsys.readouterr().out
    assert "猫" in printed and not {*HOSTILE, "\ud800"} & {*printed} - {*"]0;owned2Jtxt"}
    assert json.loads(printed) == facts


def test_facts_nested_too_deeply_say_so() -> None:
    facts: dict[str, object] = {}
    for _ in range(100_000):
        facts = {"a": facts}
    for as_json in (False, True):
        with pytest.raises(RequestError, match="nested too deeply to be shown"):
            show(facts, as_json)


def test_words_of_a_model_keep_line_ends_and_lose_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\n\ttwo\x1b")
    say_lines("[2J")
    assert capsys.readouterr().out == "one\n\ttwo\\x1b[2J\n"


@pytest.mark.parametrize(("name", "reason"), [("", "Is a directory"), ("none/a", "No such file"), ("file/a", "Not a directory")])
def test_check_json_file_says_before_any_work_what_write_json_would(tmp_path: Path, name: str, reason: str) -> None:
    """The figures of hours were computed, and then could not be written."""
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=f"^can't write '.*': {reason}"):
        check_json_file(tmp_path / name)


def test_check_json_file_with_a_name_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="File name too long"):
        check_json_file(tmp_path / ("a" * 300))


def test_check_json_file_changes_nothing(tmp_path: Path) -> None:
    file, pipe = tmp_path / "figures.json", tmp_path / "pipe"
    file.write_text("old")
    os.mkfifo(pipe)
    for path in (None, file, tmp_path / "new.json", pipe, Path("/dev/null"), Path("/dev/stdout")):
        check_json_file(path)
    assert file.read_text() == "old" and sorted(tmp_path.iterdir()) == [file, pipe]


def test_write_json_into_a_pipe_waits_for_its_reader(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(json.loads(pipe.read_text())))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join()
    assert read == [{"a": 1}] and [*tmp_path.iterdir()] == [pipe]


def test_write_json_to_an_output_that_is_a_file_keeps_what_was_printed(tmp_path: Path) -> None:
    """/dev/stdout then leads to a regular file, which was replaced: the table went with the old one."""
    program = "from pathlib import Path; from omnigen2_rt.commands.terminal import say_lines, write_json; say_lines('table'); "
    program += "write_json(Path('/dev/stdout'), {'a': 1})"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == 'table\n{\n "a": 1\n}\n'
