"""Answers of a model on disk, so that no question is asked twice.

An answer's key is a hash of everything that is sent: texts, the pictures' bytes, the model and its parameters; and the number of
the repetition, because one question may be asked several times. An answer's file appears whole or not at all: a killed run loses
only the answers under way. Questions are not kept. Knows nothing of what is asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Protocol

from ..runtime.errors import RequestError
from ..runtime.files.json_text import json_hash, read_object
from ..runtime.files.writing import write_whole
from .endpoint import Answer, Question

CACHE_FORMAT = 1


class Asker(Protocol):
    """The part of `EndpointClient` that the cache uses."""

    def ask(self, question: Question) -> Answer: ...


class AnswerCache:
    """A folder of answers. Several threads and processes may use one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, model: str, question: Question, repetition: int = 0) -> Answer | None:
        """The kept answer, or None. A damaged file counts as none."""
        try:
            stored = read_object(self._path(model, question, repetition))
            answer = Answer(**stored)
        except (OSError, ValueError, TypeError):
            return None
        return answer if _is_sound(answer) else None

    def put(self, model: str, question: Question, repetition: int, answer: Answer) -> None:
        """Keep an answer, in place of an earlier one. Raises RequestError where it can't be written."""
        path = self._path(model, question, repetition)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(dataclasses.asdict(answer)) + "\n")
        except OSError as error:
            raise RequestError(f"can't write {str(path)!r}: {error.strerror or error}") from error

    def ask(self, asker: Asker, model: str, question: Question, repetition: int = 0) -> Answer:
        """The kept answer, or a new one, which is kept. Raises as `asker.ask` and `put` do."""
        kept = self.get(model, question, repetition)
        if kept is not None:
            return kept
        answer = asker.ask(question)
        self.put(model, question, repetition, answer)
        return answer

    def _path(self, model: str, question: Question, repetition: int) -> Path:
        key = question_key(model, question, repetition)
        return self._folder / key[:2] / f"{key}.json"


def _is_sound(answer: Answer) -> bool:
    """Whether a file's values have the types of an answer's."""
    has_tokens = isinstance(answer.tokens, dict) and all(type(count) is int for count in answer.tokens.values())
    has_texts = all(isinstance(text, str) for text in (answer.text, answer.model, answer.refusal))
    return has_texts and has_tokens and isinstance(answer.is_cut_off, bool)


def question_key(model: str, question: Question, repetition: int = 0) -> str:
    """SHA-256 of a question, the model's name and the number of the repetition, hexadecimal."""
    fields = {each.name: getattr(question, each.name) for each in dataclasses.fields(question)}
    fields["parts"] = [part if isinstance(part, str) else [hashlib.sha256(part).hexdigest()] for part in question.parts]
    facts = {"format": CACHE_FORMAT, "model": model, "repetition": repetition, **fields}
    return json_hash(facts)
