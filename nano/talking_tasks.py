"""What nano is asked about pictures, and how it decides between words and a picture: questions with their right answers.

Knows the world and its words; nothing of pixels, tokens or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from .drawing_tasks import anew, changed, combine, draw_count, draw_one, draw_two, edit
from .language import BETWEEN, NUMBERS, article, caption, kind, name
from .world import OPPOSITE, RELATIONS, SHAPES, Sampler, Scene, Thing, is_held_out, relation_between

PICTURE = "<|img|>"
"""The answer that starts a drawing."""
CONTENT = "yes"
CRITIQUE = "asked for: {prompt}. is the picture right?"
MEND = "asked for: {prompt}. wrong: {critique}. which edit mends it?"
JUDGE = "asked for: {prompt}. grade the picture from 0 to 10."
"""The templates of reflection, as the checkpoint's reflection.json gives them to the runtime."""
GRADES = ("10", "5")
"""For a picture without a mistake, and with one."""


Ask = Callable[[Sampler], tuple[Scene, str, str]]
"""Makes a scene, a question about it and the answer."""


@dataclass(frozen=True, kw_only=True)
class TalkingTask:
    """ability: a line of the score table; kind: what within it; inputs: the pictures shown; answer: the right one."""

    ability: str
    kind: str
    question: str
    inputs: tuple[Scene, ...]
    answer: str


def look(sampler: Sampler) -> TalkingTask:
    """A question about a picture."""
    return _looked(sampler, LOOKS)


def relate(sampler: Sampler) -> TalkingTask:
    """A question about how two things lie to each other."""
    return _looked(sampler, [(kind_of, ask) for kind_of, ask in LOOKS if kind_of == "relation"])


def _looked(sampler: Sampler, asked: Sequence[tuple[str, Ask]]) -> TalkingTask:
    kind_of, ask = sampler.choice(asked)
    scene, question, answer = ask(sampler)
    return TalkingTask(ability="look", kind=kind_of, question=question, inputs=(scene,), answer=answer)


def decide(sampler: Sampler) -> TalkingTask:
    """A request for a picture, or a question, alone or about a picture."""
    if sampler.chance(0.5):
        task = sampler.choice((draw_one, draw_two, draw_count, edit, combine))(sampler)
        return TalkingTask(ability="decide", kind="picture", question=task.prompt, inputs=task.inputs, answer=PICTURE)
    if sampler.chance(0.5):
        return replace(look(sampler), ability="decide", kind="text")
    question, answer = sampler.choice(SMALL_TALK)
    return TalkingTask(ability="decide", kind="text", question=question, inputs=(), answer=answer)


def reflect(sampler: Sampler) -> TalkingTask:
    """A request and a picture, right or with a planted mistake: is it right, what is wrong, what mends it, its grade."""
    drawn = sampler.choice((draw_one, draw_two, draw_two, draw_count))(sampler)
    scene, critique, mending = drawn.target, CONTENT, ""
    if sampler.chance(0.6):
        scene, critique, mending = plant(sampler, drawn.target, all(size for size, _, _ in drawn.wanted.things))
    way = sampler.choice(("critique", "critique", "judge", "mend" if mending else "critique"))
    template, answer = {
        "critique": (CRITIQUE, critique),
        "judge": (JUDGE, GRADES[1] if mending else GRADES[0]),
        "mend": (MEND, mending),
    }[way]
    question = template.replace("{prompt}", drawn.prompt).replace("{critique}", critique)
    found = "planted" if mending else "right"
    return TalkingTask(ability="reflect", kind=f"{way} {found}", question=question, inputs=(scene,), answer=answer)


def plant(sampler: Sampler, scene: Scene, sized: bool = True) -> tuple[Scene, str, str]:
    """The scene with one mistake, the mistake in words and the edit that mends it. `sized`: whether sizes were asked for."""
    alike = len(scene.things) > 1 and kind(scene.things[0]) == kind(scene.things[1])
    ways = (
        [_wrong_background] if alike else [_wrong_background, _wrong_colour, _wrong_shape, _badly_drawn, _badly_drawn]
    )
    if len(scene.things) == 2 and not alike:
        ways.append(partial(_missing, sized=sized))
    while True:
        planted, critique, mending = sampler.choice(ways)(sampler, scene)
        if not is_held_out(planted):
            return planted, critique, mending


def _wrong_background(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    colour = sampler.colour(scene.background, *(thing.colour for thing in scene.things))
    return (
        replace(scene, background=colour),
        f"no, the background is {colour}",
        f"change the background to {scene.background}",
    )


def _wrong_colour(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    k, thing = _some_thing(sampler, scene)
    colour = sampler.colour(scene.background, *(other.colour for other in scene.things))
    wrong = changed(scene, k, replace(thing, colour=colour))
    return wrong, f"no, the {thing.shape} is {colour}", f"make the {thing.shape} {thing.colour}"


def _wrong_shape(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    k, thing = _some_thing(sampler, scene)
    shape = sampler.choice([s for s in SHAPES if s not in {other.shape for other in scene.things}])
    wrong = changed(scene, k, replace(thing, shape=shape))
    return wrong, f"no, there is {article(shape)}", f"replace the {shape} with {article(name(thing))}"


def _badly_drawn(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    k, thing = _some_thing(sampler, scene)
    wrong = changed(scene, k, sampler.badly_drawn(thing))
    return wrong, f"no, the {thing.shape} is badly drawn", anew(thing)


def _missing(sampler: Sampler, scene: Scene, sized: bool) -> tuple[Scene, str, str]:
    k, gone = _some_thing(sampler, scene)
    there = scene.things[1 - k]
    between = BETWEEN[relation_between(gone, there)][0]
    left = replace(scene, things=(there,))
    return left, f"no, the {gone.shape} is missing", f"add {article(kind(gone, sized))} {between} the {there.shape}"


def _what_colour(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike(sampler)
    _, thing = _some_thing(sampler, scene)
    question = sampler.choice((f"what colour is the {thing.shape}?", f"which colour has the {thing.shape}?"))
    return scene, question, thing.colour


def _what_shape(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike(sampler)
    _, thing = _some_thing(sampler, scene)
    return scene, f"what shape is the {thing.colour} object?", thing.shape


def _what_background(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike(sampler)
    question = sampler.choice(("what colour is the background?", "which colour has the background?"))
    return scene, question, scene.background


def _how_many(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = sampler.counted(sampler.choice((1, 2, 3)))
    things = sampler.choice(("objects", f"{scene.things[0].shape}s"))
    question = sampler.choice((f"how many {things} are there?", f"count the {things}"))
    return scene, question, NUMBERS[len(scene.things)]


def _is_it_there(sampler: Sampler) -> tuple[Scene, str, str]:
    relation = sampler.choice(RELATIONS)
    scene = sampler.related(relation)
    said = sampler.choice((relation, OPPOSITE[relation]))
    first, second = (thing.shape for thing in scene.things)
    question = f"is the {first} {sampler.choice(BETWEEN[said])} the {second}?"
    return scene, question, "yes" if said == relation else "no"


def _what_is_there(sampler: Sampler) -> tuple[Scene, str, str]:
    relation = sampler.choice(RELATIONS)
    scene = sampler.related(relation)
    first, second = scene.things
    return scene, f"what is {BETWEEN[relation][0]} the {second.shape}?", article(kind(first))


def _describe(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike(sampler) if sampler.chance(0.7) else sampler.counted(sampler.choice((2, 3)))
    question = sampler.choice(("describe the picture", "what do you see?", "what is in the picture?"))
    return scene, question, caption(scene)


LOOKS: tuple[tuple[str, Ask], ...] = (
    ("colour", _what_colour),
    ("shape", _what_shape),
    ("background", _what_background),
    ("count", _how_many),
    ("relation", _is_it_there),
    ("relation", _what_is_there),
    ("describe", _describe),
)
SMALL_TALK = (
    ("hello", "hello, what shall I draw?"),
    ("who are you?", "I am nano, a small OmniGen2."),
    ("what can you draw?", "circles, squares, triangles and stars."),
    ("which shapes do you know?", "circles, squares, triangles and stars."),
    ("which colours do you know?", "red, green, blue, yellow, purple, orange, white and black."),
    ("which sizes do you know?", "small and large."),
    ("thank you", "you are welcome."),
)


def _unlike(sampler: Sampler) -> Scene:
    """One thing, or two that differ."""
    return sampler.one() if sampler.chance(0.4) else sampler.related(sampler.choice(RELATIONS))


def _some_thing(sampler: Sampler, scene: Scene) -> tuple[int, Thing]:
    k = sampler.choice(tuple(range(len(scene.things))))
    return k, scene.things[k]
