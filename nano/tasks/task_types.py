"""The types of tasks: a request for a picture with the content of its right answers, or a question with its right answer.

Knows scenes and landscapes; nothing of words, sampling, pixels or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..world.landscapes import Landscape
from ..world.scenes import Scene, is_held_out

AnyScene = Scene | Landscape


@dataclass(frozen=True, kw_only=True)
class ExpectedPicture:
    """The content that a picture must have.

    things: (size, colour, shape) of each; the size is "" where the request leaves it open. All open sizes must be equal.
    relation: of the first thing to the second; "" where the request leaves it open.
    place: of the only thing; "" where the request leaves it open.
    styles: of each thing; all are plain by default.
    """

    background: str
    things: tuple[tuple[str, str, str], ...]
    relation: str = ""
    place: str = ""
    styles: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExpectedLandscape:
    """The content that a landscape must have. is_night: None where the request leaves it open."""

    subject: str
    colour: str
    is_night: bool | None = None


@dataclass(frozen=True, kw_only=True)
class DrawingTask:
    """A request for a picture.

    ability: the ability that it tests, a row of the score table.
    kind: the kind of task within the ability.
    prompt: the request.
    inputs: the scenes of the input pictures.
    target: one of the right answers.
    expected: the content that every right answer has.
    """

    ability: str
    kind: str
    prompt: str
    inputs: tuple[AnyScene, ...]
    target: AnyScene
    expected: ExpectedPicture | ExpectedLandscape


@dataclass(frozen=True, kw_only=True)
class ChatTask:
    """A question.

    ability: the ability that it tests, a row of the score table.
    kind: the kind of question within the ability.
    inputs: the scenes of the input pictures.
    answer: the only right answer.
    """

    ability: str
    kind: str
    question: str
    inputs: tuple[AnyScene, ...]
    answer: str


def expected_picture(scene: Scene, relation: str = "", sized: tuple[bool, ...] = (), place: str = "") -> ExpectedPicture:
    """The content of the scene that a picture must have. sized: the things whose size counts; all by default."""
    flags = sized or (True,) * len(scene.things)
    things = tuple(
        (thing.size if flag else "", thing.colour, thing.shape) for thing, flag in zip(scene.things, flags, strict=True)
    )
    styles = tuple(thing.style for thing in scene.things)
    return ExpectedPicture(background=scene.background, things=things, relation=relation, place=place, styles=styles)


def expected_landscape(landscape: Landscape, timed: bool) -> ExpectedLandscape:
    """The content of the landscape that a picture must have. timed: whether the time counts."""
    is_night = landscape.is_night if timed else None
    return ExpectedLandscape(subject=landscape.subject, colour=landscape.colour, is_night=is_night)


def is_held_out_scene(scene: AnyScene) -> bool:
    """Whether it shows a held-out combination, which no landscape does."""
    return isinstance(scene, Scene) and is_held_out(scene)
