"""The settings of `pairs frames`. Every default, and its reason, stands here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..runtime.checks import check_integer, check_number
from ..runtime.errors import RequestError

LONGEST_SEQUENCE = 5


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Thresholds on the similarity of two frames, from -1 to 1 (`similarity.py`). Raises RequestError for other values.

    The defaults separate nano's pictures. Encoders differ: `report.json` shows how similar neighbours are in one's own frames.

    cut_below: neighbours that are less alike belong to different scenes.
    duplicate_above: a frame that is more like the last one that was kept is dropped.
    related_above: frames of different scenes that are less alike show different things.
    length: the most frames of a sequence.
    reach: how many scenes ahead a scene's partners are looked for.
    """

    cut_below: float = 0.82
    duplicate_above: float = 0.985
    related_above: float = 0.7
    length: int = LONGEST_SEQUENCE
    reach: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[:3]:
            value = check_number(field.name, getattr(self, field.name))
            if not -1 <= value <= 1:
                raise RequestError(f"{field.name}={value:g} is out of range; a similarity is -1 to 1")
        if self.duplicate_above < max(self.cut_below, self.related_above):
            raise RequestError("duplicate_above is below cut_below or related_above: every frame would be dropped")
        check_integer("length", self.length, 2, "the shortest sequence", LONGEST_SEQUENCE)
        check_integer("reach", self.reach, 1, "the nearest", 1000)
