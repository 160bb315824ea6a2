"""Random questions of reflection on a drawing, right or with a planted mistake: its critique, its grade, or the edit.

Knows the mistakes of things, and that a landscape has its own; nothing of pixels, tokens or networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..world.landscapes import Landscape
from ..world.scenes import SHAPES, Sampler, Scene, Thing, is_held_out, relation_between, resized
from .drawing_tasks import draw_count, draw_one, draw_two
from .edits import redraw_prompt, with_thing
from .landscape_tasks import LANDSCAPE_SHARE, draw_landscape, plant_landscape_mistake
from .task_types import ChatTask, DrawingTask, ExpectedLandscape, ExpectedPicture
from .wording import BETWEEN, are_alike, thing_name, thing_phrase, with_article

NO_MISTAKE = "yes"
CRITIQUE_TEMPLATE = "asked for: {prompt}. is the picture right?"
EDIT_TEMPLATE = "asked for: {prompt}. wrong: {critique}. which edit mends it?"
GRADE_TEMPLATE = "asked for: {prompt}. grade the picture from 0 to 10."
"""The reflection prompts and the answer that ends reflection, as in the checkpoint's reflection.json."""
GRADES = ("10", "5")
"""The grades of a picture without a mistake, and with one."""
PLANTED = 0.6
"""The share of reflections on a picture with a mistake."""

Mistake = Callable[[Sampler, Scene], tuple[Scene, str, str]]
"""Returns the scene with a mistake, its critique and the edit that corrects it."""


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
    return task, *plant_landscape_mistake(sampler, landscape, states_time)


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
    if not is_group:
        mistakes.append(_wrong_colour)
    if not is_group and not is_styled:
        mistakes.append(_wrong_shape)
        mistakes += 2 * [partial(_badly_drawn, states_size=states_size)]
        if states_size:
            mistakes.append(_wrong_size)
    if len(scene.things) == 2 and not is_group:
        mistakes.append(partial(_missing, states_size=states_size))
    while True:
        wrong, critique, correction = sampler.choice(mistakes)(sampler, scene)
        if not is_held_out(wrong):
            return wrong, critique, correction


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
    shape = sampler.other(SHAPES, *(other.shape for other in scene.things))
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


def _random_thing(sampler: Sampler, scene: Scene) -> tuple[int, Thing]:
    k = sampler.choice(tuple(range(len(scene.things))))
    return k, scene.things[k]
