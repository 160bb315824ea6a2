"""Random questions with their right answers: about pictures, whether to draw, and small talk.

Knows the world and its wording; nothing of pixels, tokens or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..world.landscapes import Landscape
from ..world.scenes import OPPOSITE, SHAPES, Sampler, Scene, Thing, relation_between
from .drawing_tasks import combine, draw
from .edits import edit
from .landscape_tasks import LANDSCAPE_SHARE, answer_landscape_question
from .task_types import AnyScene, ChatTask
from .wording import BETWEEN, COLOUR_QUESTIONS, DESCRIPTION_QUESTIONS, NUMBERS, caption, thing_phrase, with_article

DRAW_TOKEN = "<|img|>"
"""The answer that starts a drawing."""
NO_THINGS = "none"
"""The count of things of a kind that the picture doesn't have."""
QuestionMaker = Callable[[Sampler, Scene], tuple[str, str] | None]
"""Returns a random question about the scene and its answer, or None where it has no such question."""


def answer_question(sampler: Sampler, scene: AnyScene | None = None) -> ChatTask:
    """A question about a picture: of the scene, or of a random one."""
    if isinstance(scene, Landscape) or (scene is None and sampler.chance(LANDSCAPE_SHARE)):
        return answer_landscape_question(sampler, scene)
    return _question_task(sampler, QUESTIONS, scene)


def answer_relation_question(sampler: Sampler) -> ChatTask:
    """A question about the relation of two things in a picture."""
    return _question_task(sampler, [(kind, make) for kind, make in QUESTIONS if kind == "relation"])


def answer_count_question(sampler: Sampler) -> ChatTask:
    """A question about the number of things in a picture."""
    return _question_task(sampler, [(kind, make) for kind, make in QUESTIONS if kind == "count"])


def _question_task(
    sampler: Sampler, makers: Sequence[tuple[str, QuestionMaker]], scene: Scene | None = None
) -> ChatTask:
    kind, make = sampler.choice(makers)
    while True:
        viewed = scene or sampler.any_scene()
        question = make(sampler, viewed)
        if question is not None:
            return ChatTask(ability="look", kind=kind, question=question[0], inputs=(viewed,), answer=question[1])
        if scene is not None:
            kind, make = sampler.choice(makers)


def decide(sampler: Sampler) -> ChatTask:
    """A request for a picture, a question about a picture, or small talk."""
    if sampler.chance(0.5):
        task = sampler.choice((draw, draw, draw, edit, combine))(sampler)
        return ChatTask(ability="decide", kind="picture", question=task.prompt, inputs=task.inputs, answer=DRAW_TOKEN)
    if sampler.chance(0.5):
        return replace(answer_question(sampler), ability="decide", kind="text")
    question, answer = sampler.choice(SMALL_TALK)
    return ChatTask(ability="decide", kind="text", question=question, inputs=(), answer=answer)


def _ask_colour(sampler: Sampler, scene: Scene) -> tuple[str, str] | None:
    thing = _unique(sampler, scene, lambda thing: thing.shape)
    if thing is None:
        return None
    return sampler.choice(COLOUR_QUESTIONS).format(thing.shape), thing.colour


def _ask_shape(sampler: Sampler, scene: Scene) -> tuple[str, str] | None:
    thing = _unique(sampler, scene, lambda thing: thing.colour)
    return None if thing is None else (f"what shape is the {thing.colour} object?", thing.shape)


def _ask_size(sampler: Sampler, scene: Scene) -> tuple[str, str] | None:
    thing = _unique(sampler, scene, lambda thing: thing.shape)
    return None if thing is None else (f"is the {thing.shape} small or large?", thing.size)


def _ask_background(sampler: Sampler, scene: Scene) -> tuple[str, str]:
    return sampler.choice(("what colour is the background?", "which colour has the background?")), scene.background


def _ask_count(sampler: Sampler, scene: Scene) -> tuple[str, str]:
    share, present = sampler.rng.random(), sampler.choice(scene.things)
    shape = present.shape if share < 0.35 else sampler.choice(SHAPES)
    colour = present.colour if share < 0.73 else sampler.colour(scene.background)
    if share < 0.6:
        words, count = f"{shape}s", sum(thing.shape == shape for thing in scene.things)
    elif share < 0.85:
        words, count = f"{colour} objects", sum(thing.colour == colour for thing in scene.things)
    else:
        words, count = "objects", len(scene.things)
    question = sampler.choice((f"how many {words} are there?", f"count the {words}"))
    return question, NUMBERS[count] if count else NO_THINGS


def _ask_presence(sampler: Sampler, scene: Scene) -> tuple[str, str]:
    thing = sampler.choice(scene.things)
    shape = thing.shape if sampler.chance(0.5) else sampler.choice(SHAPES)
    if sampler.chance(0.5):
        is_there = any(other.shape == shape for other in scene.things)
        return f"is there {with_article(shape)}?", "yes" if is_there else "no"
    colour = thing.colour if sampler.chance(0.6) else sampler.colour(scene.background)
    is_there = any((other.shape, other.colour) == (shape, colour) for other in scene.things)
    return f"is there {with_article(f'{colour} {shape}')}?", "yes" if is_there else "no"


def _ask_whether_related(sampler: Sampler, scene: Scene) -> tuple[str, str] | None:
    if not _is_pair(scene):
        return None
    first, second = scene.things if sampler.chance(0.5) else scene.things[::-1]
    relation = relation_between(first, second)
    asked_relation = sampler.choice((relation, OPPOSITE[relation]))
    question = f"is the {first.shape} {sampler.choice(BETWEEN[asked_relation])} the {second.shape}?"
    return question, "yes" if asked_relation == relation else "no"


def _ask_related_thing(sampler: Sampler, scene: Scene) -> tuple[str, str] | None:
    if not _is_pair(scene):
        return None
    first, second = scene.things if sampler.chance(0.5) else scene.things[::-1]
    between = BETWEEN[relation_between(first, second)][0]
    return f"what is {between} the {second.shape}?", with_article(thing_phrase(first))


def _ask_description(sampler: Sampler, scene: Scene) -> tuple[str, str]:
    return sampler.choice(DESCRIPTION_QUESTIONS), caption(scene)


QUESTIONS: tuple[tuple[str, QuestionMaker], ...] = (
    ("colour", _ask_colour),
    ("shape", _ask_shape),
    ("size", _ask_size),
    ("background", _ask_background),
    ("count", _ask_count),
    ("count", _ask_count),
    ("presence", _ask_presence),
    ("relation", _ask_whether_related),
    ("relation", _ask_related_thing),
    ("describe", _ask_description),
)
SMALL_TALK = (
    ("hello", "hello, what shall we draw?"),
    ("who are you?", "nano, a small image model."),
    ("what can you draw?", "circles, squares, triangles, stars, houses, trees, flowers and balloons."),
    ("which shapes do you know?", "circles, squares, triangles and stars."),
    ("which colours do you know?", "red, green, blue, yellow, purple, orange, white and black."),
    ("which sizes do you know?", "small and large."),
    ("thank you", "you are welcome."),
)


def _unique(sampler: Sampler, scene: Scene, feature: Callable[[Thing], str]) -> Thing | None:
    """A thing that no other thing equals in the feature, or None."""
    features = [feature(thing) for thing in scene.things]
    unique = [thing for thing in scene.things if features.count(feature(thing)) == 1]
    return sampler.choice(unique) if unique else None


def _is_pair(scene: Scene) -> bool:
    """Whether it has two things of different shapes."""
    return len(scene.things) == 2 and scene.things[0].shape != scene.things[1].shape
