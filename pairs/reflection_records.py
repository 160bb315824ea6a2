"""Records of reflections, for training on one's own model's mistakes: two files of lines, and the pictures beside them.

FILE.jsonl holds a line for each round. FILE-training.jsonl holds the corrections that the judge graded higher than the picture
they started from, in the training's form. Only appends, whole lines alone; several processes may write to the same files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..runtime.chat.reflection import Reflection, Round
from ..runtime.errors import RequestError
from ..runtime.files.lines import append_lines
from ..runtime.files.writing import write_whole
from ..runtime.images.png import encode_png
from .training_rows import TrainingRow, json_line, picture_name

TASK_TYPE = "reflect"
ROUND_BEGIN = b'{"round": '
TRAINING_BEGIN = f'{{"task_type": "{TASK_TYPE}", '.encode()
"""The beginnings of every line of both files."""
_NAME_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class ReflectionRecords:
    """The files of records. Raises RequestError for a name that doesn't end in .jsonl.

    path: the file of rounds.
    """

    path: Path

    def __post_init__(self) -> None:
        if self.path.suffix.lower() != ".jsonl":
            raise RequestError(f"--record {str(self.path)!r} must end in .jsonl")

    @property
    def training_path(self) -> Path:
        """The file in the training's form."""
        return self.path.with_name(f"{self.path.stem}-training.jsonl")

    @property
    def pictures(self) -> Path:
        """The folder of pictures, named after their content."""
        return self.path.with_name(f"{self.path.stem}-pictures")

    def begin(self) -> None:
        """Make the files and the folder where they are missing; a file that is there stays as it is.

        Raises RequestError where they can't be written, or end in half a line of somebody else's.
        """
        try:
            self.pictures.mkdir(exist_ok=True)
            append_lines(self.path, (), ROUND_BEGIN)
            append_lines(self.training_path, (), TRAINING_BEGIN)
        except (OSError, ValueError) as error:
            raise RequestError(f"--record {str(self.path)!r} can't be written: {_reason(error)}") from error

    def add(self, reflection: Reflection, prompt: str, judge: str, parameters: Mapping[str, Any]) -> list[Path]:
        """Append a reflection. Returns its pictures' files. Raises RequestError where one can't be written.

        prompt: the request's. judge: the model that graded and criticised. parameters: of the first drawing.
        """
        judged = [done for done in reflection.rounds if done.result.images]
        try:
            pictures = [self._saved(done.result.images[0]) for done in judged]
            best = reflection.rounds[reflection.best]
            lines = [
                json_line({**facts, "prompt": prompt, "judge": judge, "best": done is best, "parameters": dict(parameters)})
                for done, facts in zip(judged, rounds_of(judged, pictures), strict=True)
            ]
            append_lines(self.training_path, [row.line() for row in corrections(judged, pictures)], TRAINING_BEGIN)
            append_lines(self.path, lines, ROUND_BEGIN)  # last, so that a reflection that is recorded is recorded whole
        except OSError as error:
            raise RequestError(f"the record {str(self.path)!r} can't be written: {_reason(error)}") from error
        return pictures

    def _saved(self, image: Image.Image) -> Path:
        content = encode_png(image, {})
        path = self.pictures / f"{hashlib.sha256(content).hexdigest()[:_NAME_DIGITS]}.png"
        write_whole(path, content)
        return path


def rounds_of(judged: list[Round], pictures: list[Path]) -> list[dict[str, Any]]:
    """The facts of each round: its picture, what the judge said, and the result of the correction with its grade.

    result, result_grade: None in a round that nothing was drawn after.
    """
    facts = []
    for number, done in enumerate(judged):
        after = judged[number + 1] if number + 1 < len(judged) else None
        facts.append(
            {
                "round": number,
                "picture": picture_name(pictures[number]),
                "grade": done.grade,
                "critique": done.critique,
                "edit": done.edit,
                "result": None if after is None else picture_name(pictures[number + 1]),
                "result_grade": None if after is None else after.grade,
            }
        )
    return facts


def corrections(judged: list[Round], pictures: list[Path]) -> list[TrainingRow]:
    """The corrections that were graded higher than the pictures they started from, each grade being known."""
    return [
        TrainingRow(
            task_type=TASK_TYPE,
            instruction=before.edit,
            input_images=[pictures[number]],
            output_image=pictures[number + 1],
        )
        for number, (before, after) in enumerate(zip(judged, judged[1:], strict=False))
        if before.grade is not None and after.grade is not None and after.grade > before.grade
    ]


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
