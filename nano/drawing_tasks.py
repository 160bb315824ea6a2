"""Random tasks to draw, edit and combine: a request in words, its input scenes and the expected picture.

Knows the world and its wording; nothing of pixels, networks or scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .landscapes import PAINTS, SUBJECTS, Landscape, random_landscape
from .wording import (
    BETWEEN,
    NUMBERS,
    ORDINALS,
    PLAIN,
    TIMES,
    are_alike,
    landscape_phrase,
    listed,
    on_background,
    thing_name,
    thing_phrase,
    with_article,
)
from .world import (
    GROUP_CENTRES,
    OTHER_SIZE,
    PAIR_CENTRES,
    PLACES,
    RELATIONS,
    ROOM_BESIDE,
    SHAPES,
    STYLES,
    UNSAID_SIZE,
    Sampler,
    Scene,
    Thing,
    is_held_out,
    place_of,
    placed,
    resized,
)

AnyScene = Scene | Landscape
UNSAID_IS_NIGHT = False
"""Whether nano draws a landscape at night where a request says no time. Either is right."""


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


def draw(sampler: Sampler) -> DrawingTask:
    """Draw one thing, two unlike or several alike ones, or a landscape."""
    return sampler.choice((draw_one, draw_two, draw_count, draw_landscape))(sampler)


def draw_one(sampler: Sampler, scene: Scene | None = None) -> DrawingTask:
    """Draw one thing; the request states colour, shape, background and usually the size."""
    sized = sampler.chance(0.7)
    scene = scene or sampler.styled(sampler.one_thing(size=_size(sized)))
    words = with_article(thing_phrase(scene.things[0], sized))
    prompt = _draw_prompt(sampler, f"{words} {on_background(scene.background, sampler)}")
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
    prompt = _draw_prompt(sampler, f"{first} {between} {second} {on_background(scene.background, sampler)}")
    stated = relation if related else ""
    return _draw_task("two objects", _kind("two", sized), prompt, scene, relation=stated, sized=(sized, sized))


def draw_count(sampler: Sampler) -> DrawingTask:
    """Draw one to three alike things."""
    count, sized = sampler.choice((1, 2, 3)), sampler.chance(0.5)
    scene = sampler.styled(sampler.alike_things(count, _size(sized)))
    things = f"{NUMBERS[count]} {thing_phrase(scene.things[0], sized)}{'s' if count > 1 else ''}"
    prompt = _draw_prompt(sampler, f"{things} {on_background(scene.background, sampler)}")
    return _draw_task("count", _kind(f"count {count}", sized), prompt, scene, sized=(sized,) * count)


def draw_styled(sampler: Sampler) -> DrawingTask:
    """Draw one or several alike outlined or striped things."""
    while True:
        task = sampler.choice((draw_one, draw_count))(sampler)
        if isinstance(task.target, Scene) and task.target.things[0].style:
            return replace(task, ability="styles")


def draw_landscape(sampler: Sampler) -> DrawingTask:
    """Draw a landscape; the request usually states the time."""
    timed = sampler.chance(0.8)
    landscape = random_landscape(sampler, None if timed else UNSAID_IS_NIGHT)
    prompt = _draw_prompt(sampler, landscape_phrase(landscape, timed))
    expected = _expected_landscape(landscape, timed)
    return DrawingTask(ability="landscape", kind="draw", prompt=prompt, inputs=(), target=landscape, expected=expected)


def _size(sized: bool) -> str:
    """The size of a request's things: any, if the request states it."""
    return "" if sized else UNSAID_SIZE


def _kind(name: str, sized: bool) -> str:
    return f"{name}, {'sized' if sized else 'unsized'}"


Edit = Callable[[Sampler, Scene], DrawingTask | None]
"""A random edit of the scene, or None where it has no such edit."""


def edit(sampler: Sampler, scene: AnyScene | None = None) -> DrawingTask:
    """A random edit of the scene, or of a random one."""
    if isinstance(scene, Landscape):
        return edit_landscape(sampler, scene)
    if scene is None:
        return edit_landscape(sampler) if sampler.chance(LANDSCAPE_SHARE) else random_edit(sampler, sampler.choice(EDITS))
    while True:
        tasks = [task for make in EDITS if (task := make(sampler, scene)) and not _is_held_out(task.target)]
        if tasks:
            return sampler.choice(tasks)


def random_edit(sampler: Sampler, make: Edit) -> DrawingTask:
    """An edit of a kind, of a random scene."""
    while True:
        task = make(sampler, sampler.any_scene())
        if task and not _is_held_out(task.target):
            return task


def _is_held_out(scene: AnyScene) -> bool:
    return isinstance(scene, Scene) and is_held_out(scene)


def edit_landscape(sampler: Sampler, landscape: Landscape | None = None) -> DrawingTask:
    """Another time, another colour or another subject in a landscape, or in a random one."""
    landscape = landscape or random_landscape(sampler)
    kind = sampler.choice(("time", "repaint", "exchange"))
    if kind == "time":
        target = replace(landscape, is_night=not landscape.is_night)
        prompt = sampler.choice((f"make it {target.time}", f"draw it {TIMES[target.time]}"))
    elif kind == "repaint":
        target = replace(landscape, colour=_another(sampler, PAINTS, landscape.colour))
        prompt = sampler.choice(RECOLOURINGS).format(landscape.subject, target.colour)
    else:
        subject = _another(sampler, SUBJECTS, landscape.subject)
        target = replace(landscape, subject=subject, colour=sampler.choice(PAINTS))
        prompt = sampler.choice(REPLACEMENTS).format(landscape.subject, landscape_phrase(target, with_time=False))
    expected = _expected_landscape(target, True)
    return DrawingTask(ability="edit", kind=kind, prompt=prompt, inputs=(landscape,), target=target, expected=expected)


def _another(sampler: Sampler, options: tuple[str, ...], present: str) -> str:
    return sampler.choice([option for option in options if option != present])


LANDSCAPE_SHARE = 0.15
"""The share of edits of a random picture that change a landscape."""
RECOLOURINGS = ("make the {} {}", "change the colour of the {} to {}", "paint the {} {}", "turn the {} {}")
REPLACEMENTS = ("replace the {} with {}", "swap the {} for {}", "turn the {} into {}")


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
        shape=sampler.choice([shape for shape in SHAPES if shape != existing.shape]),
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
        shape=sampler.choice([shape for shape in SHAPES if shape not in {each.shape for each in scene.things}]),
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
    style = _another(sampler, STYLES, scene.things[0].style)
    prompt = f"make the {subject.words} {style or PLAIN}"
    return _edit_task("style", prompt, scene, _changed(scene, subject.indices, lambda thing: replace(thing, style=style)))


def move(sampler: Sampler, scene: Scene) -> DrawingTask | None:
    """The only thing to another place, as far off its nominal centre as before."""
    if len(scene.things) > 1:
        return None
    (thing,) = scene.things
    source = _place(scene)
    place = sampler.choice([place for place in PLACES if place != source])
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


def combine(sampler: Sampler) -> DrawingTask:
    """`gather` or `transplant`."""
    while True:
        task = sampler.choice((gather, gather, transplant))(sampler)
        if not _is_held_out(task.target):
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


def _draw_prompt(sampler: Sampler, words: str) -> str:
    return f"{sampler.choice(('', '', 'draw ', 'a picture of '))}{words}"


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


def expected_picture(scene: Scene, relation: str = "", sized: tuple[bool, ...] = (), place: str = "") -> ExpectedPicture:
    """The content of the scene that a picture must have. sized: the things whose size counts; all by default."""
    flags = sized or (True,) * len(scene.things)
    things = tuple(
        (thing.size if flag else "", thing.colour, thing.shape) for thing, flag in zip(scene.things, flags, strict=True)
    )
    styles = tuple(thing.style for thing in scene.things)
    return ExpectedPicture(background=scene.background, things=things, relation=relation, place=place, styles=styles)


def _expected_landscape(landscape: Landscape, timed: bool) -> ExpectedLandscape:
    is_night = landscape.is_night if timed else None
    return ExpectedLandscape(subject=landscape.subject, colour=landscape.colour, is_night=is_night)


def _draw_task(
    ability: str, kind: str, prompt: str, scene: Scene, relation: str = "", sized: tuple[bool, ...] = ()
) -> DrawingTask:
    expected = expected_picture(scene, relation, sized)
    return DrawingTask(ability=ability, kind=kind, prompt=prompt, inputs=(), target=scene, expected=expected)


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


def _combine_task(kind: str, prompt: str, inputs: tuple[Scene, ...], target: Scene) -> DrawingTask:
    expected = expected_picture(target)
    return DrawingTask(ability="combine", kind=kind, prompt=prompt, inputs=inputs, target=target, expected=expected)
