"""The reader of JSON: what it refuses that Python's own accepts or fails on in other ways."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omnigen2_rt.runtime.errors import LONGEST_MESSAGE, OmniGen2Error, one_line
from omnigen2_rt.runtime.files.json_text import parse_json, parse_object, read_object
from omnigen2_rt.runtime.files.reading import read_bytes

REFUSED = {
    "nesting of thousands": ("[" * 100_000, "nested too deeply"),
    "an integer of thousands of digits": ("9" * 5000, r"holds the integer 9{20}… beyond 64 bits"),
    "an integer of 65 bits": (str(2**64), "beyond 64 bits"),
    "a float beyond float64": ("1e999", "holds the number 1e999 beyond float64"),
    "not a number": ('{"a": NaN}', "holds NaN, which is not JSON"),
    "infinity": ("[-Infinity]", "holds -Infinity"),
    "half a character": (r'"\ud800"', "not valid Unicode"),
    "half a character in a key": (r'{"\uDC00": 1}', "not valid Unicode"),
    "bytes that are no UTF-8": (b'"\xff"', "not valid Unicode"),
    "a key given twice": ('{"a": 1, "a": 2}', "names 'a' twice"),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "nothing": ("", "is not JSON"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_json_that_would_fail_elsewhere_is_refused(content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(content)


def test_json_is_read_as_python_reads_it() -> None:
    assert parse_json('\ufeff{"a": [1, -2.5e3, "\\ud83d\\ude00", null, true]}'.encode()) == {"a": [1, -2500.0, "😀", None, True]}
    assert parse_json(str(2**64 - 1)) == 2**64 - 1


def test_json_of_another_kind_is_no_object() -> None:
    with pytest.raises(ValueError, match="is not a JSON object"):
        parse_object("[]")


def test_file_that_is_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_object(tmp_path / "pipe")


def test_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"123456")
    assert read_bytes(tmp_path / "long", 6) == b"123456"
    with pytest.raises(OSError, match="larger than 5 bytes"):
        read_bytes(tmp_path / "long", 5)


def test_error_message_is_one_printable_line_of_bounded_length() -> None:
    message = str(OmniGen2Error("a\nb\x1b[2J\u202e\ud800 " + "x" * 5000 + ": choose another"))
    assert message.startswith(r"a b\x1b[2J\u202e\ud800 xxx")
    assert message.endswith("x: choose another")
    assert len(message) <= LONGEST_MESSAGE
    assert len(one_line("\x1b" * 5000)) <= LONGEST_MESSAGE
