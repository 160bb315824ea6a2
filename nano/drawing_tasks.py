"""What nano is asked to draw, edit and combine: each task is a request in words, its input scenes and what must come out.

Knows the world and its words; nothing of pixels, networks or scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .language import BETWEEN, NUMBERS, ORDINALS, article, kind, name, on_background
from .world import GROUPS, RELATIONS, SHAPES, Sampler, Scene, Thing, is_held_out


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a picture must show. A thing's size is "" where the request leaves it open, and so is the relation."""

    background: str
    things: tuple[tuple[str, str, str], ...]  # size, colour, shape
    relation: str = ""  # of the first thing to the second


@dataclass(frozen=True, kw_only=True)
class DrawingTask:
    """ability: a line of the score table; kind: what within it; inputs: the pictures given; target: one right answer."""

    ability: str
    kind: str
    prompt: str
    inputs: tuple[Scene, ...]
    target: Scene
    wanted: Wanted


def draw_one(sampler: Sampler, scene: Scene | None = None) -> DrawingTask:
    """One thing with its colour, shape, background and mostly its size."""
    scene = scene or sampler.one()
    (thing,) = scene.things
    sized = sampler.chance(0.8)
    words = article(kind(thing, sized))
    prompt = _asked(sampler, f"{words} {on_background(scene.background, sampler)}")
    return _drawing("one object", "one", prompt, scene, sized=(sized,))


def draw_held_out(sampler: Sampler) -> DrawingTask:
    """As `draw_one`, of a combination that training never showed."""
    task = draw_one(sampler, sampler.held_out_one())
    return replace(task, ability="held-out combinations")


def draw_two(sampler: Sampler) -> DrawingTask:
    """Two things and how they lie to each other."""
    relation = sampler.choice(RELATIONS)
    scene = sampler.related(relation)
    sized = sampler.chance(0.5)
    first, second = (article(kind(thing, sized)) for thing in scene.things)
    between = sampler.choice(BETWEEN[relation])
    prompt = _asked(sampler, f"{first} {between} {second} {on_background(scene.background, sampler)}")
    return _drawing("two objects", "two", prompt, scene, relation=relation, sized=(sized, sized))


def draw_count(sampler: Sampler) -> DrawingTask:
    """One to three things that are alike."""
    count = sampler.choice((1, 2, 3))
    scene = sampler.counted(count)
    sized = sampler.chance(0.7)
    things = f"{NUMBERS[count]} {kind(scene.things[0], sized)}{'s' if count > 1 else ''}"
    prompt = _asked(sampler, f"{things} {on_background(scene.background, sampler)}")
    return _drawing("count", f"count {count}", prompt, scene, sized=(sized,) * count)


def edit(sampler: Sampler) -> DrawingTask:
    """One of the five edits."""
    while True:
        task = sampler.choice(EDITS)(sampler)
        if not is_held_out(task.target):
            return task


def recolour(sampler: Sampler) -> DrawingTask:
    scene, k = _some_scene(sampler)
    thing = scene.things[k]
    colour = sampler.colour(scene.background, *(other.colour for other in scene.things))
    wordings = ("make the {} {}", "change the colour of the {} to {}", "paint the {} {}", "turn the {} {}")
    prompt = sampler.choice(wordings).format(_pointed(sampler, thing), colour)
    return _edited("recolour", prompt, scene, changed(scene, k, replace(thing, colour=colour)))


def remove(sampler: Sampler) -> DrawingTask:
    scene = sampler.related(sampler.choice(RELATIONS))
    k = sampler.choice((0, 1))
    prompt = sampler.choice(("remove the {}", "delete the {}", "take away the {}"))
    target = replace(scene, things=(scene.things[1 - k],))
    return _edited("remove", prompt.format(_pointed(sampler, scene.things[k])), scene, target)


def add(sampler: Sampler) -> DrawingTask:
    relation = sampler.choice(RELATIONS)
    target = sampler.related(relation)
    new, there = target.things
    between = sampler.choice(BETWEEN[relation])
    sized = sampler.chance(0.7)
    lead = sampler.choice(("add", "put", "draw"))
    prompt = f"{lead} {article(kind(new, sized))} {between} the {_pointed(sampler, there)}"
    return _edited("add", prompt, replace(target, things=(there,)), target, relation, (sized, True))


def substitute(sampler: Sampler) -> DrawingTask:
    scene, k = _some_scene(sampler)
    thing = scene.things[k]
    shape = sampler.choice([s for s in SHAPES if s not in _shapes(scene)])
    colour = sampler.colour(scene.background, *(other.colour for other in scene.things if other is not thing))
    wordings = ("replace the {} with {}", "swap the {} for {}", "turn the {} into {}")
    prompt = sampler.choice(wordings).format(_pointed(sampler, thing), article(f"{colour} {shape}"))
    return _edited("replace", prompt, scene, changed(scene, k, replace(thing, shape=shape, colour=colour)))


def redraw(sampler: Sampler) -> DrawingTask:
    """A badly drawn thing replaced by what it should be: how reflection mends one."""
    target, k = _some_scene(sampler)
    thing = target.things[k]
    prompt = anew(thing)
    return _edited("redraw", prompt, changed(target, k, sampler.badly_drawn(thing)), target)


def anew(thing: Thing) -> str:
    """The edit that draws a thing once more."""
    return f"replace the {thing.shape} with {article(name(thing))}"


def change_background(sampler: Sampler) -> DrawingTask:
    scene, _ = _some_scene(sampler)
    colour = sampler.colour(scene.background, *(thing.colour for thing in scene.things))
    wordings = ("change the background to {}", "make the background {}", "put it on {} background")
    chosen = sampler.choice(wordings)
    prompt = chosen.format(article(colour) if chosen.startswith("put") else colour)
    return _edited("background", prompt, scene, replace(scene, background=colour))


EDITS: tuple[Callable[[Sampler], DrawingTask], ...] = (recolour, remove, add, substitute, change_background)


def combine(sampler: Sampler) -> DrawingTask:
    """Objects of two or three pictures on one background, or one picture's object on the other's background."""
    while True:
        task = sampler.choice((gather, gather, transplant))(sampler)
        if not is_held_out(task.target):
            return task


def gather(sampler: Sampler) -> DrawingTask:
    """The objects of all pictures side by side (three: two above, one below), as large as they were."""
    count = sampler.choice((2, 2, 3))
    inputs = tuple(sampler.one() for _ in range(count))
    places = (sampler.place(place) for place in GROUPS[count])
    things = tuple(replace(scene.things[0], x=x, y=y) for scene, (x, y) in zip(inputs, places, strict=True))
    background = sampler.colour(*(thing.colour for thing in things))
    *before, last = (_source(sampler, number) for number in range(count))
    prompt = f"put {', '.join(before)} and {last} {on_background(background, sampler)}"
    return _combined(f"gather {count}", prompt, inputs, Scene(background=background, things=things))


def transplant(sampler: Sampler) -> DrawingTask:
    """One picture's object, where and as large as it was, on the background of the other."""
    while True:
        inputs = (sampler.one(), sampler.one())
        k = sampler.choice((0, 1))
        target = Scene(background=inputs[1 - k].background, things=inputs[k].things)
        if target.background != target.things[0].colour:
            break
    source = _source(sampler, k)
    ground = f"image {2 - k}" if "image " in source and source[-1].isdigit() else f"the {('second', 'first')[k]} image"
    lead = sampler.choice(("put ", "", "place "))
    return _combined("transplant", f"{lead}{source} on the background of {ground}", inputs, target)


def _source(sampler: Sampler, number: int) -> str:
    ordinal = ORDINALS[number]
    return sampler.choice((f"the object from the {ordinal} image", f"the object from image {number + 1}"))


def _asked(sampler: Sampler, words: str) -> str:
    return f"{sampler.choice(('', '', 'draw ', 'a picture of '))}{words}"


def _some_scene(sampler: Sampler) -> tuple[Scene, int]:
    """A scene of one or two things, and one of them."""
    if sampler.chance(0.5):
        return sampler.one(), 0
    return sampler.related(sampler.choice(RELATIONS)), sampler.choice((0, 1))


def _pointed(sampler: Sampler, thing: Thing) -> str:
    return sampler.choice((thing.shape, name(thing)))


def _shapes(scene: Scene) -> set[str]:
    return {thing.shape for thing in scene.things}


def changed(scene: Scene, k: int, thing: Thing) -> Scene:
    """The scene with `thing` in place of its thing number `k`."""
    return replace(scene, things=(*scene.things[:k], thing, *scene.things[k + 1 :]))


def as_wanted(scene: Scene, relation: str = "", sized: tuple[bool, ...] = ()) -> Wanted:
    """What a picture of the scene must show; `sized` says for which things the size counts, all by default."""
    flags = sized or (True,) * len(scene.things)
    things = tuple(
        (thing.size if flag else "", thing.colour, thing.shape) for thing, flag in zip(scene.things, flags, strict=True)
    )
    return Wanted(background=scene.background, things=things, relation=relation)


def _drawing(
    ability: str, kind: str, prompt: str, scene: Scene, relation: str = "", sized: tuple[bool, ...] = ()
) -> DrawingTask:
    wanted = as_wanted(scene, relation, sized)
    return DrawingTask(ability=ability, kind=kind, prompt=prompt, inputs=(), target=scene, wanted=wanted)


def _edited(
    kind: str, prompt: str, scene: Scene, target: Scene, relation: str = "", sized: tuple[bool, ...] = ()
) -> DrawingTask:
    wanted = as_wanted(target, relation, sized)
    return DrawingTask(ability="edit", kind=kind, prompt=prompt, inputs=(scene,), target=target, wanted=wanted)


def _combined(kind: str, prompt: str, inputs: tuple[Scene, ...], target: Scene) -> DrawingTask:
    wanted = as_wanted(target)
    return DrawingTask(ability="combine", kind=kind, prompt=prompt, inputs=inputs, target=target, wanted=wanted)
