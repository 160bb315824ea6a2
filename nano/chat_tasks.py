"""Random questions with their right answers: about pictures, whether to draw, and reflection on a drawing.

Knows the world and its wording; nothing of pixels, tokens or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from .drawing_tasks import combine, draw_count, draw_one, draw_two, edit, redraw_prompt, with_thing
from .wording import BETWEEN, NUMBERS, caption, thing_name, thing_phrase, with_article
from .world import OPPOSITE, RELATIONS, SHAPES, Sampler, Scene, Thing, is_held_out, relation_between

DRAW_TOKEN = "<|img|>"
"""The answer that starts a drawing."""
NO_MISTAKE = "yes"
CRITIQUE_TEMPLATE = "asked for: {prompt}. is the picture right?"
EDIT_TEMPLATE = "asked for: {prompt}. wrong: {critique}. which edit mends it?"
GRADE_TEMPLATE = "asked for: {prompt}. grade the picture from 0 to 10."
"""The reflection prompts and the answer that ends reflection, as in the checkpoint's reflection.json."""
GRADES = ("10", "5")
"""The grades of a picture without a mistake, and with one."""

QuestionMaker = Callable[[Sampler], tuple[Scene, str, str]]
"""Returns a random scene, a question about it and the answer."""


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
    inputs: tuple[Scene, ...]
    answer: str


def answer_question(sampler: Sampler) -> ChatTask:
    """A question about a picture."""
    return _question_task(sampler, QUESTIONS)


def answer_relation_question(sampler: Sampler) -> ChatTask:
    """A question about the relation of two things in a picture."""
    return _question_task(sampler, [(kind, make) for kind, make in QUESTIONS if kind == "relation"])


def _question_task(sampler: Sampler, makers: Sequence[tuple[str, QuestionMaker]]) -> ChatTask:
    kind, make = sampler.choice(makers)
    scene, question, answer = make(sampler)
    return ChatTask(ability="look", kind=kind, question=question, inputs=(scene,), answer=answer)


def decide(sampler: Sampler) -> ChatTask:
    """A request for a picture, a question about a picture, or small talk."""
    if sampler.chance(0.5):
        task = sampler.choice((draw_one, draw_two, draw_count, edit, combine))(sampler)
        return ChatTask(ability="decide", kind="picture", question=task.prompt, inputs=task.inputs, answer=DRAW_TOKEN)
    if sampler.chance(0.5):
        return replace(answer_question(sampler), ability="decide", kind="text")
    question, answer = sampler.choice(SMALL_TALK)
    return ChatTask(ability="decide", kind="text", question=question, inputs=(), answer=answer)


def reflect(sampler: Sampler) -> ChatTask:
    """A question about the drawing of a request, right or with a planted mistake: its critique, its grade, or the edit."""
    task = sampler.choice((draw_one, draw_two, draw_two, draw_count))(sampler)
    scene, critique, correction = task.target, NO_MISTAKE, ""
    if sampler.chance(0.6):
        scene, critique, correction = plant_mistake(sampler, scene, all(size for size, _, _ in task.expected.things))
    question_kind = sampler.choice(("critique", "critique", "judge", "mend" if correction else "critique"))
    template, answer = {
        "critique": (CRITIQUE_TEMPLATE, critique),
        "judge": (GRADE_TEMPLATE, GRADES[1] if correction else GRADES[0]),
        "mend": (EDIT_TEMPLATE, correction),
    }[question_kind]
    question = template.replace("{prompt}", task.prompt).replace("{critique}", critique)
    kind = f"{question_kind} {'planted' if correction else 'right'}"
    return ChatTask(ability="reflect", kind=kind, question=question, inputs=(scene,), answer=answer)


def plant_mistake(sampler: Sampler, scene: Scene, states_size: bool = True) -> tuple[Scene, str, str]:
    """The scene with one mistake, its critique, and the edit that corrects it. states_size: whether the request does."""
    are_alike = len(scene.things) > 1 and thing_phrase(scene.things[0]) == thing_phrase(scene.things[1])
    mistakes = [_wrong_background]
    if not are_alike:
        mistakes += [_wrong_colour, _wrong_shape, _badly_drawn, _badly_drawn]
    if len(scene.things) == 2 and not are_alike:
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
    shape = sampler.choice([s for s in SHAPES if s not in {other.shape for other in scene.things}])
    wrong = with_thing(scene, k, replace(thing, shape=shape))
    return wrong, f"no, there is {with_article(shape)}", f"replace the {shape} with {with_article(thing_name(thing))}"


def _badly_drawn(sampler: Sampler, scene: Scene) -> tuple[Scene, str, str]:
    k, thing = _random_thing(sampler, scene)
    wrong = with_thing(scene, k, sampler.badly_drawn(thing))
    return wrong, f"no, the {thing.shape} is badly drawn", redraw_prompt(thing)


def _missing(sampler: Sampler, scene: Scene, states_size: bool) -> tuple[Scene, str, str]:
    k, missing = _random_thing(sampler, scene)
    other = scene.things[1 - k]
    between = BETWEEN[relation_between(missing, other)][0]
    correction = f"add {with_article(thing_phrase(missing, states_size))} {between} the {other.shape}"
    return replace(scene, things=(other,)), f"no, the {missing.shape} is missing", correction


def _ask_colour(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike_things(sampler)
    _, thing = _random_thing(sampler, scene)
    question = sampler.choice((f"what colour is the {thing.shape}?", f"which colour has the {thing.shape}?"))
    return scene, question, thing.colour


def _ask_shape(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike_things(sampler)
    _, thing = _random_thing(sampler, scene)
    return scene, f"what shape is the {thing.colour} object?", thing.shape


def _ask_background(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike_things(sampler)
    question = sampler.choice(("what colour is the background?", "which colour has the background?"))
    return scene, question, scene.background


def _ask_count(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = sampler.alike_things(sampler.choice((1, 2, 3)))
    things = sampler.choice(("objects", f"{scene.things[0].shape}s"))
    question = sampler.choice((f"how many {things} are there?", f"count the {things}"))
    return scene, question, NUMBERS[len(scene.things)]


def _ask_whether_related(sampler: Sampler) -> tuple[Scene, str, str]:
    relation = sampler.choice(RELATIONS)
    scene = sampler.two_things(relation)
    asked_relation = sampler.choice((relation, OPPOSITE[relation]))
    first, second = (thing.shape for thing in scene.things)
    question = f"is the {first} {sampler.choice(BETWEEN[asked_relation])} the {second}?"
    return scene, question, "yes" if asked_relation == relation else "no"


def _ask_related_thing(sampler: Sampler) -> tuple[Scene, str, str]:
    relation = sampler.choice(RELATIONS)
    scene = sampler.two_things(relation)
    first, second = scene.things
    return scene, f"what is {BETWEEN[relation][0]} the {second.shape}?", with_article(thing_phrase(first))


def _ask_description(sampler: Sampler) -> tuple[Scene, str, str]:
    scene = _unlike_things(sampler) if sampler.chance(0.7) else sampler.alike_things(sampler.choice((2, 3)))
    question = sampler.choice(("describe the picture", "what do you see?", "what is in the picture?"))
    return scene, question, caption(scene)


QUESTIONS: tuple[tuple[str, QuestionMaker], ...] = (
    ("colour", _ask_colour),
    ("shape", _ask_shape),
    ("background", _ask_background),
    ("count", _ask_count),
    ("relation", _ask_whether_related),
    ("relation", _ask_related_thing),
    ("describe", _ask_description),
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


def _unlike_things(sampler: Sampler) -> Scene:
    """A scene of one thing or of two unlike things."""
    return sampler.one_thing() if sampler.chance(0.4) else sampler.two_things(sampler.choice(RELATIONS))


def _random_thing(sampler: Sampler, scene: Scene) -> tuple[int, Thing]:
    k = sampler.choice(tuple(range(len(scene.things))))
    return k, scene.things[k]
