"""Random questions with their right answers: about pictures, whether to draw, and reflection on a drawing.

Knows the world and its wording; nothing of pixels, tokens or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from .drawing_tasks import (
    AnyScene,
    DrawingTask,
    ExpectedLandscape,
    ExpectedPicture,
    combine,
    draw,
    draw_count,
    draw_landscape,
    draw_one,
    draw_two,
    edit,
    redraw_prompt,
    with_thing,
)
from .landscapes import PAINTS, SUBJECTS, Landscape, random_landscape
from .wording import BETWEEN, NUMBERS, are_alike, caption, landscape_phrase, thing_name, thing_phrase, with_article
from .world import OPPOSITE, SHAPES, Sampler, Scene, Thing, is_held_out, relation_between, resized

DRAW_TOKEN = "<|img|>"
"""The answer that starts a drawing."""
NO_MISTAKE = "yes"
NO_THINGS = "none"
"""The count of things of a kind that the picture doesn't have."""
CRITIQUE_TEMPLATE = "asked for: {prompt}. is the picture right?"
EDIT_TEMPLATE = "asked for: {prompt}. wrong: {critique}. which edit mends it?"
GRADE_TEMPLATE = "asked for: {prompt}. grade the picture from 0 to 10."
"""The reflection prompts and the answer that ends reflection, as in the checkpoint's reflection.json."""
GRADES = ("10", "5")
"""The grades of a picture without a mistake, and with one."""

QuestionMaker = Callable[[Sampler, Scene], tuple[str, str] | None]
"""Returns a random question about the scene and its answer, or None where it has no such question."""


Mistake = Callable[[Sampler, Scene], tuple[Scene, str, str]]
"""Returns the scene with a mistake, its critique and the edit that corrects it."""


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


def answer_question(sampler: Sampler, scene: AnyScene | None = None) -> ChatTask:
    """A question about a picture: of the scene, or of a random one."""
    if isinstance(scene, Landscape) or (scene is None and sampler.chance(LANDSCAPE_SHARE)):
        return answer_landscape_question(sampler, scene)
    return _question_task(sampler, QUESTIONS, scene)


def answer_landscape_question(sampler: Sampler, landscape: Landscape | None = None) -> ChatTask:
    """A question about a landscape, or about a random one."""
    landscape = landscape or random_landscape(sampler)
    subject = landscape.subject
    kind = sampler.choice(("colour", "time", "presence", "describe"))
    if kind == "colour":
        question, answer = sampler.choice(COLOUR_QUESTIONS).format(subject), landscape.colour
    elif kind == "time":
        question, answer = "is it day or night?", landscape.time
    elif kind == "presence":
        subject = subject if sampler.chance(0.5) else sampler.choice(SUBJECTS)
        question, answer = f"is there {with_article(subject)}?", "yes" if subject == landscape.subject else "no"
    else:
        question, answer = sampler.choice(DESCRIPTION_QUESTIONS), caption(landscape)
    return ChatTask(ability="look", kind=f"landscape: {kind}", question=question, inputs=(landscape,), answer=answer)


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


def reflect(sampler: Sampler) -> ChatTask:
    """A question about the drawing of a request, right or with a planted mistake: its critique, its grade, or the edit."""
    is_landscape = sampler.chance(LANDSCAPE_SHARE)
    task, scene, critique, correction = (_reflected_landscape if is_landscape else _reflected_things)(sampler)
    question_kind = sampler.choice(("critique", "critique", "judge", "mend" if correction else "critique"))
    template, answer = {
        "critique": (CRITIQUE_TEMPLATE, critique),
        "judge": (GRADE_TEMPLATE, GRADES[1] if correction else GRADES[0]),
        "mend": (EDIT_TEMPLATE, correction),
    }[question_kind]
    question = template.replace("{prompt}", task.prompt).replace("{critique}", critique)
    kind = f"{question_kind} {'planted' if correction else 'right'}"
    return ChatTask(ability="reflect", kind=kind, question=question, inputs=(scene,), answer=answer)


def _reflected_landscape(sampler: Sampler) -> tuple[DrawingTask, Landscape, str, str]:
    """A request for a landscape, and its drawing with the critique and the correction."""
    task = draw_landscape(sampler)
    assert isinstance(task.target, Landscape) and isinstance(task.expected, ExpectedLandscape)
    landscape, states_time = task.target, task.expected.is_night is not None
    if not states_time and sampler.chance(0.5):  # either time is right
        landscape = replace(landscape, is_night=not landscape.is_night)
    if not sampler.chance(PLANTED):
        return task, landscape, NO_MISTAKE, ""
    return task, *_change_landscape(sampler, landscape, states_time)


def _reflected_things(sampler: Sampler) -> tuple[DrawingTask, Scene, str, str]:
    """A request for things, and its drawing with the critique and the correction."""
    task = sampler.choice((draw_one, draw_two, draw_two, draw_count))(sampler)
    assert isinstance(task.target, Scene) and isinstance(task.expected, ExpectedPicture)
    scene, states_size = task.target, all(size for size, _, _ in task.expected.things)
    if not states_size and not scene.things[0].style and sampler.chance(0.5):  # either size is right
        scene = replace(scene, things=tuple(map(resized, scene.things)))
    if not sampler.chance(PLANTED):
        return task, scene, NO_MISTAKE, ""
    return task, *plant_mistake(sampler, scene, states_size)


def plant_mistake(sampler: Sampler, scene: Scene, states_size: bool = True) -> tuple[Scene, str, str]:
    """The scene with one mistake, its critique, and the edit that corrects it. states_size: whether the request does."""
    is_group = len(scene.things) > 1 and are_alike(scene.things)
    is_styled = bool(scene.things[0].style)
    mistakes: list[Mistake] = [_wrong_background]
    if is_styled and not is_group:
        mistakes.append(_wrong_colour)
    if not is_group and not is_styled:
        mistakes += [_wrong_colour, _wrong_shape]
        mistakes += 2 * [partial(_badly_drawn, states_size=states_size)]
        if states_size:
            mistakes.append(_wrong_size)
    if len(scene.things) == 2 and not is_group:
        mistakes.append(partial(_missing, states_size=states_size))
    while True:
        wrong, critique, correction = sampler.choice(mistakes)(sampler, scene)
        if not is_held_out(wrong):
            return wrong, critique, correction


def _change_landscape(sampler: Sampler, landscape: Landscape, states_time: bool) -> tuple[Landscape, str, str]:
    """The landscape with one mistake, its critique, and the edit that corrects it. states_time: whether the request does."""
    mistakes = ("time", "colour", "subject") if states_time else ("colour", "subject")
    mistake, subject = sampler.choice(mistakes), landscape.subject
    if mistake == "time":
        wrong = replace(landscape, is_night=not landscape.is_night)
        return wrong, f"no, it is {wrong.time}", f"make it {landscape.time}"
    if mistake == "colour":
        colour = sampler.choice([paint for paint in PAINTS if paint != landscape.colour])
        return (
            replace(landscape, colour=colour),
            f"no, the {subject} is {colour}",
            f"make the {subject} {landscape.colour}",
        )
    other = sampler.choice([each for each in SUBJECTS if each != subject])
    correction = f"replace the {other} with {landscape_phrase(landscape, with_time=False)}"
    return replace(landscape, subject=other), f"no, there is {with_article(other)}", correction


def _wrong_background(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    colour = sampler.colour(scene.background, *(thing.colour for thing in scene.things))
    return (
        replace(scene, background=colour),
        f"no, the background is {colour}",
        f"change the background to {scene.background}",
    )


def _wrong_colour(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    k, thing = _random_thing(sampler, scene)
    colour = sampler.colour(scene.background, *(other.colour for other in scene.things))
    wrong = with_thing(scene, k, replace(thing, colour=colour))
    return wrong, f"no, the {thing.shape} is {colour}", f"make the {thing.shape} {thing.colour}"


def _wrong_shape(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    k, thing = _random_thing(sampler, scene)
    shape = sampler.choice([s for s in SHAPES if s not in {other.shape for other in scene.things}])
    wrong = with_thing(scene, k, replace(thing, shape=shape))
    return wrong, f"no, there is {with_article(shape)}", f"replace the {shape} with {with_article(thing_name(thing))}"


def _wrong_size(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    k, thing = _random_thing(sampler, scene)
    wrong = resized(thing)
    return with_thing(scene, k, wrong), f"no, the {thing.shape} is {wrong.size}", f"make the {thing.shape} {thing.size}"


def _badly_drawn(sampler: Sampler, scene: Scene, states_size: bool) -> tuple[Scene, str, str]:
    k, thing = _random_thing(sampler, scene)
    wrong = with_thing(scene, k, sampler.badly_drawn(thing))
    return wrong, f"no, the {thing.shape} is badly drawn", redraw_prompt(thing, states_size)


def _missing(sampler: Sampler, scene: Scene, states_size: bool) -> tuple[Scene, str, str]:
    k, missing = _random_thing(sampler, scene)
    other = scene.things[1 - k]
    between = BETWEEN[relation_between(missing, other)][0]
    correction = f"add {with_article(thing_phrase(missing, states_size))} {between} the {other.shape}"
    return replace(scene, things=(other,)), f"no, the {missing.shape} is missing", correction


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


LANDSCAPE_SHARE = 0.15
"""The share of questions and reflections about random pictures that are about landscapes."""
PLANTED = 0.6
"""The share of reflections on a picture with a mistake."""
COLOUR_QUESTIONS = ("what colour is the {}?", "which colour has the {}?")
DESCRIPTION_QUESTIONS = ("describe the picture", "what do you see?", "what is in the picture?")


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


def _random_thing(sampler: Sampler, scene: Scene) -> tuple[int, Thing]:
    k = sampler.choice(tuple(range(len(scene.things))))
    return k, scene.things[k]
