"""Random tasks to draw and combine: a request in words, its input scenes and the expected picture.

Knows the world and its wording; nothing of pixels, networks or scores.
"""

from __future__ import annotations

from dataclasses import replace

from ..world.scenes import GROUP_CENTRES, RELATIONS, UNSAID_SIZE, Sampler, Scene
from .landscape_tasks import draw_landscape
from .task_types import DrawingTask, expected_picture, is_held_out_scene
from .wording import BETWEEN, NUMBERS, ORDINALS, draw_prompt, listed, on_background, thing_phrase, with_article


def draw(sampler: Sampler) -> DrawingTask:
    """Draw one thing, two unlike or several alike ones, or a landscape."""
    return sampler.choice((draw_one, draw_two, draw_count, draw_landscape))(sampler)


def draw_one(sampler: Sampler, scene: Scene | None = None) -> DrawingTask:
    """Draw one thing; the request states colour, shape, background and usually the size."""
    sized = sampler.chance(0.7)
    scene = scene or sampler.styled(sampler.one_thing(size=_size(sized)))
    words = with_article(thing_phrase(scene.things[0], sized))
    prompt = draw_prompt(sampler, f"{words} {on_background(scene.background, sampler)}")
    return _draw_task("one object", _kind("one", sized), prompt, scene, sized=(sized,))


def draw_held_out(sampler: Sampler) -> DrawingTask:
    """`draw_one` with a held-out combination."""
    task = draw_one(sampler, sampler.held_out_thing())
    return replace(task, ability="held-out combinations")


def draw_two(sampler: Sampler) -> DrawingTask:
    """Draw two unlike things; the request usually states their relation."""
    sized, related = sampler.chance(0.5), sampler.chance(0.85)
    relation = sampler.choice(RELATIONS) if related else "left"
    scene = sampler.two_things(relation, _size(sized))
    first, second = (with_article(thing_phrase(thing, sized)) for thing in scene.things)
    between = sampler.choice(BETWEEN[relation]) if related else "and"
    prompt = draw_prompt(sampler, f"{first} {between} {second} {on_background(scene.background, sampler)}")
    stated = relation if related else ""
    return _draw_task("two objects", _kind("two", sized), prompt, scene, relation=stated, sized=(sized, sized))


def draw_count(sampler: Sampler) -> DrawingTask:
    """Draw one to three alike things."""
    count, sized = sampler.choice((1, 2, 3)), sampler.chance(0.5)
    scene = sampler.styled(sampler.alike_things(count, _size(sized)))
    things = f"{NUMBERS[count]} {thing_phrase(scene.things[0], sized)}{'s' if count > 1 else ''}"
    prompt = draw_prompt(sampler, f"{things} {on_background(scene.background, sampler)}")
    return _draw_task("count", _kind(f"count {count}", sized), prompt, scene, sized=(sized,) * count)


def draw_styled(sampler: Sampler) -> DrawingTask:
    """Draw one or several alike outlined or striped things."""
    while True:
        task = sampler.choice((draw_one, draw_count))(sampler)
        if isinstance(task.target, Scene) and task.target.things[0].style:
            return replace(task, ability="styles")


def _size(sized: bool) -> str:
    """The size of a request's things: any, if the request states it."""
    return "" if sized else UNSAID_SIZE


def _kind(name: str, sized: bool) -> str:
    return f"{name}, {'sized' if sized else 'unsized'}"


def combine(sampler: Sampler) -> DrawingTask:
    """`gather` or `transplant`."""
    while True:
        task = sampler.choice((gather, gather, transplant))(sampler)
        if not is_held_out_scene(task.target):
            return task


def gather(sampler: Sampler) -> DrawingTask:
    """Put the objects of two or three pictures on one background, each in its size."""
    count = sampler.choice((2, 2, 3))
    inputs = tuple(sampler.one_thing() for _ in range(count))
    centres = (sampler.jittered(centre) for centre in GROUP_CENTRES[count])
    things = tuple(replace(scene.things[0], x=x, y=y) for scene, (x, y) in zip(inputs, centres, strict=True))
    background = sampler.colour(*(thing.colour for thing in things))
    objects = listed([_object_phrase(sampler, number) for number in range(count)])
    prompt = f"put {objects} {on_background(background, sampler)}"
    target = Scene(background=background, things=things, size_px=sampler.size_px)
    return _combine_task(f"gather {count}", prompt, inputs, target)


def transplant(sampler: Sampler) -> DrawingTask:
    """Put one picture's object on the other's background, at the same place and in the same size."""
    while True:
        inputs = (sampler.one_thing(), sampler.one_thing())
        k = sampler.choice((0, 1))
        target = replace(inputs[k], background=inputs[1 - k].background)
        if target.background != target.things[0].colour:
            break
    phrase = _object_phrase(sampler, k)
    other = f"image {2 - k}" if phrase[-1].isdigit() else f"the {('second', 'first')[k]} image"
    verb = sampler.choice(("put ", "", "place "))
    return _combine_task("transplant", f"{verb}{phrase} on the background of {other}", inputs, target)


def _object_phrase(sampler: Sampler, number: int) -> str:
    ordinal = ORDINALS[number]
    return sampler.choice((f"the object from the {ordinal} image", f"the object from image {number + 1}"))


def _draw_task(
    ability: str, kind: str, prompt: str, scene: Scene, relation: str = "", sized: tuple[bool, ...] = ()
) -> DrawingTask:
    expected = expected_picture(scene, relation, sized)
    return DrawingTask(ability=ability, kind=kind, prompt=prompt, inputs=(), target=scene, expected=expected)


def _combine_task(kind: str, prompt: str, inputs: tuple[Scene, ...], target: Scene) -> DrawingTask:
    expected = expected_picture(target)
    return DrawingTask(ability="combine", kind=kind, prompt=prompt, inputs=inputs, target=target, expected=expected)
