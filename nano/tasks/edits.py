"""Random edits of a picture: a request in words, the picture before and the expected one.

Knows all edits of things, and that a landscape has its own; nothing of pixels, networks or scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..world.landscapes import Landscape
from ..world.scenes import (
    OTHER_SIZE,
    PAIR_CENTRES,
    PLACES,
    ROOM_BESIDE,
    SHAPES,
    STYLES,
    UNSAID_SIZE,
    Sampler,
    Scene,
    Thing,
    place_of,
    placed,
    resized,
)
from .landscape_tasks import LANDSCAPE_SHARE, edit_landscape
from .task_types import AnyScene, DrawingTask, expected_picture, is_held_out_scene
from .wording import BETWEEN, PLAIN, RECOLOURINGS, REPLACEMENTS, are_alike, thing_name, thing_phrase, with_article

Edit = Callable[[Sampler, Scene], DrawingTask | None]
"""A random edit of the scene, or None where it has no such edit."""


def edit(sampler: Sampler, scene: AnyScene | None = None) -> DrawingTask:
    """A random edit of the scene, or of a random one."""
    if isinstance(scene, Landscape):
        return edit_landscape(sampler, scene)
    if scene is None:
        return edit_landscape(sampler) if sampler.chance(LANDSCAPE_SHARE) else random_edit(sampler, sampler.choice(EDITS))
    while True:
        tasks = [task for make in EDITS if (task := make(sampler, scene)) and not is_held_out_scene(task.target)]
        if tasks:
            return sampler.choice(tasks)


def random_edit(sampler: Sampler, make: Edit) -> DrawingTask:
    """An edit of a kind, of a random scene."""
    while True:
        task = make(sampler, sampler.any_scene())
        if task and not is_held_out_scene(task.target):
            return task


def recolour(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    """One thing, or all of several alike ones."""
    subject = _subject(sampler, scene)
    if subject is None:
        return None
    colour = sampler.colour(scene.background, *_colours(scene))
    prompt = sampler.choice(RECOLOURINGS).format(subject.words, colour)
    return _edit_task("recolour", prompt, scene, _changed(scene, subject.indices, lambda thing: replace(thing, colour=colour)))


def remove(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    subject = _one_of_several(sampler, scene)
    if subject is None:
        return None
    prompt = sampler.choice(("remove the {}", "delete the {}", "take away the {}")).format(subject.words)
    things = tuple(thing for k, thing in enumerate(scene.things) if k not in subject.indices)
    return _edit_task("remove", prompt, scene, replace(scene, things=things))


def add(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    """Another thing where the only one, a plain one, leaves room."""
    if len(scene.things) > 1 or scene.things[0].style or _place(scene) == "middle":
        return None
    (existing,) = scene.things
    relation, related, sized = ROOM_BESIDE[_place(scene)], sampler.chance(0.8), sampler.chance(0.7)
    new = sampler.thing(
        PAIR_CENTRES[relation][0],
        shape=sampler.other(SHAPES, existing.shape),
        colour=sampler.colour(scene.background, existing.colour),
        size="" if sized else existing.size,
    )
    prompt = f"{sampler.choice(('add', 'put', 'draw') if related else ('add',))} {with_article(thing_phrase(new, sized))}"
    if related:
        prompt += f" {sampler.choice(BETWEEN[relation])} the {_referring_expression(sampler, existing)}"
    target = replace(scene, things=(new, existing))
    return _edit_task("add", prompt, scene, target, relation=relation if related else "", sized=(sized, True))


def substitute(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    """Another thing at the same place, in the same size unless the request states one. It is plain."""
    subject = _one(sampler, scene)
    if subject is None:
        return None
    thing = scene.things[subject.indices[0]]
    other = replace(
        thing if sampler.chance(0.7) else resized(thing),
        shape=sampler.other(SHAPES, *(each.shape for each in scene.things)),
        colour=sampler.colour(scene.background, *(each.colour for each in scene.things if each is not thing)),
        style="",
    )
    phrase = with_article(thing_phrase(other, other.size != thing.size or sampler.chance(0.2)))
    prompt = sampler.choice(REPLACEMENTS).format(subject.words, phrase)
    return _edit_task("replace", prompt, scene, _changed(scene, subject.indices, lambda _: other))


def change_background(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    colour = sampler.colour(scene.background, *_colours(scene))
    wordings = ("change the background to {}", "make the background {}", "put it on {} background")
    wording = sampler.choice(wordings)
    prompt = wording.format(with_article(colour) if wording.startswith("put") else colour)
    return _edit_task("background", prompt, scene, replace(scene, background=colour))


def resize(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    """One thing, or all of several alike ones, in the other size. An outlined or striped thing has no other."""
    subject = _subject(sampler, scene)
    if subject is None or scene.things[0].style:
        return None
    size = OTHER_SIZE[scene.things[subject.indices[0]].size]
    word = sampler.choice((size, {"small": "smaller", "large": "bigger"}[size]))
    return _edit_task("resize", f"make the {subject.words} {word}", scene, _changed(scene, subject.indices, resized))


def restyle(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    """The only thing, or all of several alike ones, in another style, if they are large."""
    if not are_alike(scene.things) or scene.things[0].size != "large":
        return None
    subject = _subject(sampler, scene)
    if subject is None:
        return None
    style = sampler.other(STYLES, scene.things[0].style)
    prompt = f"make the {subject.words} {style or PLAIN}"
    return _edit_task("style", prompt, scene, _changed(scene, subject.indices, lambda thing: replace(thing, style=style)))


def move(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    """The only thing to another place, as far off its nominal centre as before."""
    if len(scene.things) > 1:
        return None
    (thing,) = scene.things
    source = _place(scene)
    place = sampler.other(PLACES, source)
    (x, y), (old_x, old_y) = (placed(PLACES[each], scene.size_px) for each in (place, source))
    target = replace(scene, things=(replace(thing, x=thing.x + x - old_x, y=thing.y + y - old_y),))
    prompt = f"move the {_referring_expression(sampler, thing)} to the {place}"
    return _edit_task("move", prompt, scene, target, place=place)


def _place(scene: Scene) -> str:
    """The place of the only thing."""
    return place_of(scene.things[0], scene.size_px)


EDITS: tuple[Edit, ...] = (recolour, remove, add, substitute, change_background, resize, move, restyle)


def redraw(sampler: Sampler) -> DrawingTask:
    """Replace a badly drawn thing by a clean one: the edit by which reflection corrects it."""
    while True:
        target, sized = sampler.any_scene(), sampler.chance(0.5)
        subject = _one(sampler, target)
        if subject is not None and not target.things[0].style:
            break
    thing = target.things[subject.indices[0]]
    bad = sampler.badly_drawn(thing)
    if not sized and not bad.dents and thing.size != UNSAID_SIZE:  # its radius doesn't tell its size
        thing, bad = resized(thing), replace(bad, size=UNSAID_SIZE)
        target = _changed(target, subject.indices, lambda _: thing)
    scene = _changed(target, subject.indices, lambda _: bad)
    return _edit_task("redraw", redraw_prompt(thing, sized), scene, target)


def redraw_prompt(thing: Thing, sized: bool) -> str:
    """The edit that draws the thing again."""
    return f"replace the {thing.shape} with {with_article(thing_phrase(thing, sized))}"


@dataclass(frozen=True)
class Subject:
    """The things that an edit changes, by their indices, and the words for them."""

    indices: tuple[int, ...]
    words: str


def _subject(sampler: Sampler, scene: Scene) -> Subject | None:
    """One thing that its shape names, or all of several alike ones."""
    if len(scene.things) > 1 and are_alike(scene.things):
        return Subject(tuple(range(len(scene.things))), f"{_referring_expression(sampler, scene.things[0])}s")
    return _one(sampler, scene)


def _one(sampler: Sampler, scene: Scene) -> Subject | None:
    shapes = [thing.shape for thing in scene.things]
    unique = [k for k, shape in enumerate(shapes) if shapes.count(shape) == 1]
    if not unique:
        return None
    k = sampler.choice(unique)
    return Subject((k,), _referring_expression(sampler, scene.things[k]))


def _one_of_several(sampler: Sampler, scene: Scene) -> Subject | None:
    return _one(sampler, scene) if len(scene.things) > 1 else None


def _referring_expression(sampler: Sampler, thing: Thing) -> str:
    return sampler.choice((thing.shape, thing_name(thing)))


def _colours(scene: Scene) -> set[str]:
    return {thing.colour for thing in scene.things}


def _changed(scene: Scene, indices: tuple[int, ...], change: Callable[[Thing], Thing]) -> Scene:
    """The scene with the things of these indices changed."""
    return replace(scene, things=tuple(change(thing) if k in indices else thing for k, thing in enumerate(scene.things)))


def with_thing(scene: Scene, k: int, thing: Thing) -> Scene:
    """The scene with `thing` as its thing number `k`."""
    return _changed(scene, (k,), lambda _: thing)


def _edit_task(
    kind: str,
    prompt: str,
    scene: Scene,
    target: Scene,
    *,
    relation: str = "",
    sized: tuple[bool, ...] = (),
    place: str = "",
) -> DrawingTask:
    expected = expected_picture(target, relation, sized, place)
    return DrawingTask(ability="edit", kind=kind, prompt=prompt, inputs=(scene,), target=target, expected=expected)
