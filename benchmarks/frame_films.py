"""Films of nano's moving shapes with planted cuts, still frames, changes and foreign frames, for `frame_pairs.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from omnigen2_rt.nano.judging.picture_reader import Reading
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import RADII_PX, SIDE_PX, Sampler, Scene, Thing, resized

STILL_PX, MOVED_PX = 0.2, 5.0
SAME_PX = 1.5
"""The largest distance at which the reader's centres of a thing count as equal."""


@dataclass(frozen=True, kw_only=True)
class FilmFrame:
    """A frame. shot: 0 for the first. event: "begin", "still", "move", "change" or "foreign"."""

    shot: int
    scene: Scene
    event: str


def film(seed: int, shots: int, frames: int) -> list[FilmFrame]:
    """A film of `shots` shots of `frames` frames. A shot shows the things of the one before on another background, or others."""
    sampler, made = Sampler(seed), list[FilmFrame]()
    scene = sampler.any_scene()
    for shot in range(shots):
        if shot:
            scene = _on_another_background(sampler, scene) if sampler.chance(0.5) else _unlike(sampler, scene)
        made.append(FilmFrame(shot=shot, scene=scene, event="begin"))
        for number in range(1, frames):
            event = sampler.choice(("still", "move", "move", "change", "foreign"))
            if event == "foreign" and (number == frames - 1 or made[-1].event in ("begin", "foreign")):
                event = "move"  # a foreign frame lies within a shot
            if event == "foreign":
                made.append(FilmFrame(shot=shot, scene=_unlike(sampler, scene), event=event))
                continue
            scene = {"still": _still, "move": _moved, "change": _changed}[event](sampler, scene)
            made.append(FilmFrame(shot=shot, scene=scene, event=event))
    return made


def write_film(frames: list[FilmFrame], folder: Path) -> None:
    """Write a film's frames as pictures, named in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        render(frame.scene).save(folder / f"frame-{number}.png")


Kind = tuple[str, str, str, str]


def kinds(reading: Reading) -> list[Kind]:
    """Size, colour, shape and style of a reading's things, sorted."""
    return sorted(_kind(thing) for thing in reading.things)


def are_same(first: Reading, second: Reading) -> bool:
    """Whether two pictures show the same things in the same places on the same background."""
    if first.background != second.background or kinds(first) != kinds(second):
        return False
    return all(min(_distance(thing, other) for other in _alike(thing, second)) <= SAME_PX for thing in first.things)


def right_instructions(before: Reading, after: Reading) -> set[str]:
    """Nano's instructions that turn one picture into another, where one thing of a unique shape changed; empty for others."""
    gone, come = (sorted(set(kinds(a)) - set(kinds(b))) for a, b in ((before, after), (after, before)))
    if before.background != after.background or len(gone) != 1 or len(come) != 1 or gone[0][2:] != come[0][2:]:
        return set()
    (old_size, old_colour, shape, _), (size, colour, *_) = gone[0], come[0]
    if sum(thing.shape == shape for thing in before.things) != 1:
        return set()
    changes = [*([colour] if colour != old_colour else []), *([size] if size != old_size else [])]
    return {f"make the {shape} {changes[0]}"} if len(changes) == 1 else set()


def _alike(thing: Thing, reading: Reading) -> list[Thing]:
    return [other for other in reading.things if _kind(other) == _kind(thing)]


def _kind(thing: Thing) -> Kind:
    return thing.size, thing.colour, thing.shape, thing.style


def _distance(first: Thing, second: Thing) -> float:
    return math.hypot(first.x - second.x, first.y - second.y)


def _on_another_background(sampler: Sampler, scene: Scene) -> Scene:
    colours = {thing.colour for thing in scene.things}
    return replace(scene, background=sampler.colour(scene.background, *colours))


def _unlike(sampler: Sampler, scene: Scene) -> Scene:
    """A scene of another background and other things."""
    while True:
        other = sampler.any_scene()
        if other.background != scene.background and not _kinds(other) & _kinds(scene):
            return other


def _kinds(scene: Scene) -> set[tuple[str, str]]:
    return {(thing.colour, thing.shape) for thing in scene.things}


def _still(sampler: Sampler, scene: Scene) -> Scene:
    return _shifted(scene, *sampler.rng.uniform(-STILL_PX, STILL_PX, 2))


def _moved(sampler: Sampler, scene: Scene) -> Scene:
    """The scene with all things moved in a direction in which they stay in the picture."""
    while True:
        angle = sampler.rng.uniform(0, 2 * math.pi)
        moved = _shifted(scene, MOVED_PX * math.cos(angle), MOVED_PX * math.sin(angle))
        if all(_is_inside(thing) for thing in moved.things):
            return moved


def _changed(sampler: Sampler, scene: Scene) -> Scene:
    """The scene with one thing in another colour or size; moved where all of its things are alike."""
    number = int(sampler.rng.integers(len(scene.things)))
    thing = scene.things[number]
    others = {other.colour for other in scene.things}
    bigger = resized(thing)
    if sampler.chance(0.5) and not thing.style and _is_inside(bigger) and _is_whole(bigger):
        changed = bigger
    else:
        changed = replace(thing, colour=sampler.colour(scene.background, *others))
    return replace(scene, things=(*scene.things[:number], changed, *scene.things[number + 1 :]))


def _is_inside(thing: Thing) -> bool:
    edge = 1.3 * RADII_PX["large"][1]
    return all(edge <= place <= SIDE_PX - edge for place in (thing.x, thing.y))


def _is_whole(thing: Thing) -> bool:
    low, high = RADII_PX[thing.size]
    return low <= thing.radius <= high


def _shifted(scene: Scene, dx: float, dy: float) -> Scene:
    return replace(scene, things=tuple(replace(thing, x=thing.x + dx, y=thing.y + dy) for thing in scene.things))
