"""The cache of answers: its keys, and what becomes of a damaged file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from omnigen2_rt.evaluation.answer_cache import AnswerCache, question_key
from omnigen2_rt.evaluation.endpoint import Answer, Question
from omnigen2_rt.runtime.errors import RequestError

QUESTION = Question(parts=("judge", b"a picture"), schema={"type": "object"}, max_tokens=9)


class Counter:
    """Answers with the number of questions so far."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, question: Question) -> Answer:
        self.asked += 1
        return Answer(text=f"answer {self.asked}", model="m", tokens={"prompt_tokens": 3}, is_cut_off=True, refusal="no")


def test_answer_is_asked_for_once_in_each_repetition(tmp_path: Path) -> None:
    asker, cache = Counter(), AnswerCache(tmp_path / "answers")
    first = cache.ask(asker, "m", QUESTION)
    assert (cache.ask(asker, "m", QUESTION), AnswerCache(tmp_path / "answers").get("m", QUESTION)) == (first, first)
    assert cache.ask(asker, "m", QUESTION, 1).text == "answer 2" and asker.asked == 2


def test_key_changes_with_everything_that_is_sent() -> None:
    changes = [
        {"parts": ("judge", b"a picturf")},
        {"parts": ("judgf", b"a picture")},
        {"parts": (b"a picture", "judge")},
        {"parts": ("judge", "a picture")},
        {"system": "be strict"},
        {"schema": None},
        {"max_tokens": 10},
        {"temperature": 0.0},
        {"seed": 0},
    ]
    keys = {question_key("m", replace(QUESTION, **change)) for change in changes}
    keys |= {question_key("m", QUESTION), question_key("n", QUESTION), question_key("m", QUESTION, 1)}
    assert len(keys) == len(changes) + 3


WRONG_PARTS = (b'"tokens": 3', b'"tokens": {"a": "3"}', b'"is_cut_off": 1', b'"refusal": null')
WRONG_TYPES = [b'{"text": "", %b}' % part for part in WRONG_PARTS]


@pytest.mark.parametrize("content", [b"", b'{"text": "answ', b'{"text": 1}', b'{"else": ""}', b"[]", *WRONG_TYPES])
def test_damaged_answer_is_asked_for_again(content: bytes, tmp_path: Path) -> None:
    asker, cache = Counter(), AnswerCache(tmp_path)
    cache.ask(asker, "m", QUESTION)
    (file,) = tmp_path.glob("*/*.json")
    file.write_bytes(content)
    assert cache.ask(asker, "m", QUESTION).text == "answer 2"
    assert cache.ask(asker, "m", QUESTION).text == "answer 2"


def test_cache_keeps_no_question(tmp_path: Path) -> None:
    AnswerCache(tmp_path).ask(Counter(), "m", QUESTION)
    (file,) = tmp_path.glob("*/*.json")
    assert b"judge" not in file.read_bytes()


def test_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="can't write .*file"):
        AnswerCache(tmp_path / "file").ask(Counter(), "m", QUESTION)
