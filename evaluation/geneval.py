"""GenEval's rules on detections that the user supplies: whether each picture shows what its prompt asks for.

The detector and the classifier of colours are not here: the published ones are Mask2Former and CLIP. Source of the rules:
evaluation/evaluate_images.py of djghosh13/geneval, read and written anew in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import RequestError, shown
from ..runtime.files.schema import Length, OneOf, Range, parse
from .benchmark import mean
from .data_files import read_rows
from .scores import NOT_WHOLE, Average
from .statistics import NamedGroups, estimate, paired_differences

CONFIDENCE = 0.3
COUNTING_CONFIDENCE = 0.9
POSITION_MARGIN = 0.1
"""The part of both things' sizes by which they must be apart, beside which a position counts."""
LEAST_SHARE = 0.5
"""The least share of an axis in the direction for which a position along it counts."""
MOST_OBJECTS = 16
"""Objects of a class that count: the most confident ones."""
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
POSITIONS = ("left of", "right of", "above", "below")
PROMPTS, PICTURES = 553, 4
"""The published set: prompts, and pictures of each."""

_Name = Annotated[str, Length(1, 100)]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Objects that a picture must show, or, under `exclude`, fewer than `count` of.

    name: their class. position: (relation, the number of an earlier entry that they stand in this relation to).
    """

    name: _Name
    count: Annotated[int, Range(1, 100)] = 1
    color: _Name | None = None
    position: tuple[Annotated[str, OneOf(POSITIONS)], int] | None = None


@dataclass(frozen=True, kw_only=True)
class Detection:
    """An object that the detector found. box: left, top, right, bottom, in pixels. color: as it was classified, or None."""

    name: _Name
    score: Annotated[float, Range(0, 1)]
    box: tuple[float, float, float, float]
    color: _Name | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture's prompt, its requirements, and the detections in it; None where there are none because it wasn't looked at."""

    tag: Annotated[str, OneOf(TAGS)]
    prompt: Annotated[str, Length(1, 10_000)]
    include: tuple[Wanted, ...]
    exclude: tuple[Wanted, ...] = ()
    detections: tuple[Detection, ...] | None


@dataclass(frozen=True, kw_only=True)
class GenEvalScores:
    """The accuracies.

    average: by tag and over all; the interval takes a prompt, with its pictures, as one sample.
    pictures: how many there are, and of those without a verdict: unjudged.
    is_whole: whether these are as many pictures as in the published set.
    prompts: the share of right pictures, by tag and prompt.
    """

    average: Average
    pictures: int
    unjudged: int
    is_whole: bool
    prompts: NamedGroups

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.is_whole and not self.unjudged


def read_detections(path: Path) -> list[Picture]:
    """The pictures of a JSONL file, one on each line; other keys than those of `Picture` are ignored. Raises RequestError."""
    pictures = []
    for place, row in read_rows((path,), ()):
        try:
            pictures.append(_picture(row))
        except ValueError as error:
            raise RequestError(f"{place}: {error}") from error
    if not pictures:
        raise RequestError(f"{str(path)!r} holds no pictures")
    return pictures


def _picture(row: Mapping[str, Any]) -> Picture:
    known = {name: row[name] for name in ("tag", "prompt", "include", "exclude") if row.get(name) is not None}
    wanted = {name: [_named(entry) for entry in _listed(known[name], name)] for name in ("include", "exclude") if name in known}
    detections = row.get("detections")
    if detections is not None:
        detections = [_named(entry) for entry in _listed(detections, "detections")]
    picture: Picture = parse(Picture, {**known, **wanted, "detections": detections}, "the picture")
    for number, entry in enumerate(picture.include):
        if entry.position is not None and not 0 <= entry.position[1] < number:
            raise ValueError(f"include[{number}].position names the entry {entry.position[1]}; only an earlier one can be named")
    return picture


def _listed(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {shown(value)}, not a list")
    return value


def _named(entry: Any) -> Any:
    """An entry with its class as `name`: no field can be called class. Raises ValueError where it has none."""
    if not isinstance(entry, dict) or "class" not in entry:
        raise ValueError(f"an entry is {shown(entry)}, not an object with a class")
    return {"name" if key == "class" else key: value for key, value in entry.items()}


def verdict(picture: Picture) -> bool | None:
    """Whether the picture shows what is asked for; None where that can't be said, because detections or colours are missing."""
    if picture.detections is None:
        return None
    least = COUNTING_CONFIDENCE if picture.tag == "counting" else CONFIDENCE
    objects = _confident(picture.detections, least)
    groups: list[list[Detection] | None] = []
    for wanted in picture.include:
        found = objects.get(wanted.name, [])[: wanted.count]
        if wanted.color is not None and len(found) == wanted.count and any(thing.color is None for thing in found):
            return None
        groups.append(found if _is_met(wanted, found, groups) else None)
    too_many = any(len(objects.get(wanted.name, [])) >= wanted.count for wanted in picture.exclude)
    return None not in groups and not too_many


def _confident(detections: Sequence[Detection], least: float) -> dict[str, list[Detection]]:
    """The detections that count, by class, the most confident first."""
    objects: dict[str, list[Detection]] = {}
    for thing in sorted(detections, key=lambda thing: -thing.score):
        if thing.score > least:
            objects.setdefault(thing.name, []).append(thing)
    return {name: things[:MOST_OBJECTS] for name, things in objects.items()}


def _is_met(wanted: Wanted, found: Sequence[Detection], groups: Sequence[Sequence[Detection] | None]) -> bool:
    if len(found) < wanted.count or (wanted.color is not None and any(thing.color != wanted.color for thing in found)):
        return False
    if wanted.position is None:
        return True
    relation, number = wanted.position
    others = groups[number]
    return others is not None and all(relation in relations(thing.box, other.box) for thing in found for other in others)


def relations(box: Sequence[float], other: Sequence[float]) -> set[str]:
    """The relations of a thing to another one: two on a diagonal, none where they are too near. Boxes as in `Detection`."""
    (centre, size), (other_centre, other_size) = _centre_and_size(box), _centre_and_size(other)
    offset = centre - other_centre
    apart = np.maximum(np.abs(offset) - POSITION_MARGIN * (size + other_size), 0) * np.sign(offset)
    if np.all(np.abs(apart) < 1e-3):
        return set()
    dx, dy = apart / np.linalg.norm(offset)
    shares = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return {name for name, share in shares.items() if share > LEAST_SHARE}


def _centre_and_size(box: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    corners = np.asarray(box, np.float64).reshape(2, 2)
    return corners.mean(axis=0), np.abs(corners[1] - corners[0])


def score_pictures(pictures: Sequence[Picture], allow_incomplete: bool) -> GenEvalScores:
    """The accuracies of pictures; none over all tags of an incomplete set, unless that is allowed."""
    prompts: dict[str, dict[str, list[bool]]] = {tag: {} for tag in TAGS if any(picture.tag == tag for picture in pictures)}
    unjudged = 0
    for picture in pictures:
        is_right = verdict(picture)
        if is_right is None:
            unjudged += 1
        else:
            prompts[picture.tag].setdefault(picture.prompt, []).append(is_right)
    is_whole = len(pictures) == PROMPTS * PICTURES and len(prompts) == len(TAGS)
    tags = {tag: mean([right for rights in each.values() for right in rights]) for tag, each in prompts.items() if each}
    rates = {tag: {prompt: mean(rights) for prompt, rights in each.items()} for tag, each in prompts.items()}
    has_total = allow_incomplete or (is_whole and not unjudged)
    total = estimate({tag: [*each.values()] for tag, each in rates.items()}) if has_total else None
    if total is not None:
        total = replace(total, value=mean([*tags.values()]))  # a tag's pictures count alike, also where prompts have not as many
    return GenEvalScores(
        average=Average(tasks=tags, all=total), pictures=len(pictures), unjudged=unjudged, is_whole=is_whole, prompts=rates
    )


def gap_lines(scores: GenEvalScores) -> list[str]:
    """The gaps in words, a line for each kind."""
    lines = []
    if not scores.is_whole:
        lines.append(NOT_WHOLE)
    if scores.unjudged:
        lines.append(f"Pictures without a verdict: {scores.unjudged} of {scores.pictures}.")
    lost = [tag for tag in TAGS if tag not in scores.average.tasks]
    if lost:
        lines.append(f"Tags without any verdict, which no average holds: {', '.join(lost)}.")
    return lines


def prompt_differences(ours: GenEvalScores, theirs: GenEvalScores, has_total: bool) -> Average:
    """The paired differences of prompts' rates, ours minus theirs."""
    groups = paired_differences(ours.prompts, theirs.prompts)
    return Average(tasks={tag: mean(values) for tag, values in groups.items()}, all=estimate(groups) if has_total else None)
