"""Rows in the form that the original's training reads (train.py at commit 0f72fa9): a JSON object on a line.

    task_type       "t2i", "edit", "ic" (in-context), or a name of one's own
    instruction     what the model is asked
    input_images    the names of the pictures it starts from; absent for "t2i"
    output_image    the name of the picture that is right

Its loader takes every .json and .jsonl file below a folder, so a data configuration must name the file itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A row. See the module."""

    task_type: str
    instruction: str
    input_images: Sequence[Path]
    output_image: Path

    def line(self) -> bytes:
        """The row as a line; names are absolute, because the training opens them from its own folder."""
        pictures = {"input_images": [picture_name(path) for path in self.input_images]} if self.input_images else {}
        fields = {"task_type": self.task_type, "instruction": self.instruction, **pictures}
        return json_line({**fields, "output_image": picture_name(self.output_image)})


def picture_name(path: Path) -> str:
    """A picture's absolute name as a row holds it."""
    return str(path.absolute())


def json_line(value: Any) -> bytes:
    """A value as a line of JSON."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"
