"""Random tasks to draw, edit and combine: a request in words, its input scenes and the expected picture.

Knows the world and its wording; nothing of pixels, networks or scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .wording import BETWEEN, NUMBERS, ORDINALS, on_background, thing_name, thing_phrase, with_article
from .world import GROUP_CENTRES, RELATIONS, SHAPES, Sampler, Scene, Thing, is_held_out


@dataclass(frozen=True, kw_only=True)
class ExpectedPicture:
    """The content that a picture must have.

    things: (size, colour, shape) of each; the size is "" where the request leaves it open.
    relation: of the first thing to the second; "" where the request leaves it open.
    """

    background: str
    things: tuple[tuple[str, str, str], ...]
    relation: str = ""


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
    inputs: tuple[Scene, ...]
    target: Scene
    expected: ExpectedPicture


def draw_one(sampler: Sampler, scene: Scene | None = None) -> DrawingTask:
    """Draw one thing; the request states colour, shape, background and usually the size."""
    scene = scene or sampler.one_thing()
    (thing,) = scene.things
    sized = sampler.chance(0.8)
    words = with_article(thing_phrase(thing, sized))
    prompt = _draw_prompt(sampler, f"{words} {on_background(scene.background, sampler)}")
    return _draw_task("one object", "one", prompt, scene, sized=(sized,))


def draw_held_out(sampler: Sampler) -> DrawingTask:
    """`draw_one` with a held-out combination."""
    task = draw_one(sampler, sampler.held_out_thing())
    return replace(task, ability="held-out combinations")


def draw_two(sampler: Sampler) -> DrawingTask:
    """Draw two unlike things in a relation."""
    relation = sampler.choice(RELATIONS)
    scene = sampler.two_things(relation)
    sized = sampler.chance(0.5)
    first, second = (with_article(thing_phrase(thing, sized)) for thing in scene.things)
    between = sampler.choice(BETWEEN[relation])
    prompt = _draw_prompt(sampler, f"{first} {between} {second} {on_background(scene.background, sampler)}")
    return _draw_task("two objects", "two", prompt, scene, relation=relation, sized=(sized, sized))


def draw_count(sampler: Sampler) -> DrawingTask:
    """Draw one to three alike things."""
    count = sampler.choice((1, 2, 3))
    scene = sampler.alike_things(count)
    sized = sampler.chance(0.7)
    things = f"{NUMBERS[count]} {thing_phrase(scene.things[0], sized)}{'s' if count > 1 else ''}"
    prompt = _draw_prompt(sampler, f"{things} {on_background(scene.background, sampler)}")
    return _draw_task("count", f"count {count}", prompt, scene, sized=(sized,) * count)


def edit(sampler: Sampler) -> DrawingTask:
    """A random one of `EDITS`."""
    while True:
        task = sampler.choice(EDITS)(sampler)
        if not is_held_out(task.target):
            return task


def recolour(sampler: Sampler) -> DrawingTask:
    scene, k = _random_scene(sampler)
    thing = scene.things[k]
    colour = sampler.colour(scene.background, *(other.colour for other in scene.things))
    wordings = ("make the {} {}", "change the colour of the {} to {}", "paint the {} {}", "turn the {} {}")
    prompt = sampler.choice(wordings).format(_referring_expression(sampler, thing), colour)
    return _edit_task("recolour", prompt, scene, with_thing(scene, k, replace(thing, colour=colour)))


def remove(sampler: Sampler) -> DrawingTask:
    scene = sampler.two_things(sampler.choice(RELATIONS))
    k = sampler.choice((0, 1))
    prompt = sampler.choice(("remove the {}", "delete the {}", "take away the {}"))
    target = replace(scene, things=(scene.things[1 - k],))
    return _edit_task("remove", prompt.format(_referring_expression(sampler, scene.things[k])), scene, target)


def add(sampler: Sampler) -> DrawingTask:
    relation = sampler.choice(RELATIONS)
    target = sampler.two_things(relation)
    new, existing = target.things
    between = sampler.choice(BETWEEN[relation])
    sized = sampler.chance(0.7)
    verb = sampler.choice(("add", "put", "draw"))
    prompt = f"{verb} {with_article(thing_phrase(new, sized))} {between} the {_referring_expression(sampler, existing)}"
    return _edit_task("add", prompt, replace(target, things=(existing,)), target, relation, (sized, True))


def substitute(sampler: Sampler) -> DrawingTask:
    scene, k = _random_scene(sampler)
    thing = scene.things[k]
    shape = sampler.choice([s for s in SHAPES if s not in _shapes(scene)])
    colour = sampler.colour(scene.background, *(other.colour for other in scene.things if other is not thing))
    wordings = ("replace the {} with {}", "swap the {} for {}", "turn the {} into {}")
    prompt = sampler.choice(wordings).format(_referring_expression(sampler, thing), with_article(f"{colour} {shape}"))
    return _edit_task("replace", prompt, scene, with_thing(scene, k, replace(thing, shape=shape, colour=colour)))


def redraw(sampler: Sampler) -> DrawingTask:
    """Replace a badly drawn thing by a clean one: the edit by which reflection corrects it."""
    target, k = _random_scene(sampler)
    thing = target.things[k]
    prompt = redraw_prompt(thing)
    return _edit_task("redraw", prompt, with_thing(target, k, sampler.badly_drawn(thing)), target)


def redraw_prompt(thing: Thing) -> str:
    """The edit that draws the thing again."""
    return f"replace the {thing.shape} with {with_article(thing_name(thing))}"


def change_background(sampler: Sampler) -> DrawingTask:
    scene, _ = _random_scene(sampler)
    colour = sampler.colour(scene.background, *(thing.colour for thing in scene.things))
    wordings = ("change the background to {}", "make the background {}", "put it on {} background")
    wording = sampler.choice(wordings)
    prompt = wording.format(with_article(colour) if wording.startswith("put") else colour)
    return _edit_task("background", prompt, scene, replace(scene, background=colour))


EDITS: tuple[Callable[[Sampler], DrawingTask], ...] = (recolour, remove, add, substitute, change_background)


def combine(sampler: Sampler) -> DrawingTask:
    """`gather` or `transplant`."""
    while True:
        task = sampler.choice((gather, gather, transplant))(sampler)
        if not is_held_out(task.target):
            return task


def gather(sampler: Sampler) -> DrawingTask:
    """Put the objects of two or three pictures on one background, each in its size."""
    count = sampler.choice((2, 2, 3))
    inputs = tuple(sampler.one_thing() for _ in range(count))
    centres = (sampler.jittered(centre) for centre in GROUP_CENTRES[count])
    things = tuple(replace(scene.things[0], x=x, y=y) for scene, (x, y) in zip(inputs, centres, strict=True))
    background = sampler.colour(*(thing.colour for thing in things))
    *before, last = (_object_phrase(sampler, number) for number in range(count))
    prompt = f"put {', '.join(before)} and {last} {on_background(background, sampler)}"
    return _combine_task(f"gather {count}", prompt, inputs, Scene(background=background, things=things))


def transplant(sampler: Sampler) -> DrawingTask:
    """Put one picture's object on the other's background, at the same place and in the same size."""
    while True:
        inputs = (sampler.one_thing(), sampler.one_thing())
        k = sampler.choice((0, 1))
        target = Scene(background=inputs[1 - k].background, things=inputs[k].things)
        if target.background != target.things[0].colour:
            break
    phrase = _object_phrase(sampler, k)
    other = f"image {2 - k}" if phrase[-1].isdigit() else f"the {('second', 'first')[k]} image"
    verb = sampler.choice(("put ", "", "place "))
    return _combine_task("transplant", f"{verb}{phrase} on the background of {other}", inputs, target)


def _object_phrase(sampler: Sampler, number: int) -> str:
    ordinal = ORDINALS[number]
    return sampler.choice((f"the object from the {ordinal} image", f"the object from image {number + 1}"))


def _draw_prompt(sampler: Sampler, words: str) -> str:
    return f"{sampler.choice(('', '', 'draw ', 'a picture of '))}{words}"


def _random_scene(sampler: Sampler) -> tuple[Scene, int]:
    """A scene of one or two things, and the index of one of them."""
    if sampler.chance(0.5):
        return sampler.one_thing(), 0
    return sampler.two_things(sampler.choice(RELATIONS)), sampler.choice((0, 1))


def _referring_expression(sampler: Sampler, thing: Thing) -> str:
    return sampler.choice((thing.shape, thing_name(thing)))


def _shapes(scene: Scene) -> set[str]:
    return {thing.shape for thing in scene.things}


def with_thing(scene: Scene, k: int, thing: Thing) -> Scene:
    """The scene with `thing` as its thing number `k`."""
    return replace(scene, things=(*scene.things[:k], thing, *scene.things[k + 1 :]))


def expected_picture(scene: Scene, relation: str = "", sized: tuple[bool, ...] = ()) -> ExpectedPicture:
    """The content of the scene that a picture must have. sized: the things whose size counts; all by default."""
    flags = sized or (True,) * len(scene.things)
    things = tuple(
        (thing.size if flag else "", thing.colour, thing.shape) for thing, flag in zip(scene.things, flags, strict=True)
    )
    return ExpectedPicture(background=scene.background, things=things, relation=relation)


def _draw_task(
    ability: str, kind: str, prompt: str, scene: Scene, relation: str = "", sized: tuple[bool, ...] = ()
) -> DrawingTask:
    expected = expected_picture(scene, relation, sized)
    return DrawingTask(ability=ability, kind=kind, prompt=prompt, inputs=(), target=scene, expected=expected)


def _edit_task(
    kind: str, prompt: str, scene: Scene, target: Scene, relation: str = "", sized: tuple[bool, ...] = ()
) -> DrawingTask:
    expected = expected_picture(target, relation, sized)
    return DrawingTask(ability="edit", kind=kind, prompt=prompt, inputs=(scene,), target=target, expected=expected)


def _combine_task(kind: str, prompt: str, inputs: tuple[Scene, ...], target: Scene) -> DrawingTask:
    expected = expected_picture(target)
    return DrawingTask(ability="combine", kind=kind, prompt=prompt, inputs=inputs, target=target, expected=expected)
