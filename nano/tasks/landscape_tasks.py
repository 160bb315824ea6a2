"""Random tasks about landscapes: to draw and edit them, questions about them, and drawings of them with a planted mistake.

Knows landscapes and their wording; nothing of things, pixels, tokens or networks.
"""

from __future__ import annotations

from dataclasses import replace

from ..world.landscapes import PAINTS, SUBJECTS, Landscape, random_landscape
from ..world.scenes import Sampler
from .task_types import ChatTask, DrawingTask, expected_landscape
from .wording import (
    COLOUR_QUESTIONS,
    DESCRIPTION_QUESTIONS,
    RECOLOURINGS,
    REPLACEMENTS,
    TIMES,
    caption,
    draw_prompt,
    landscape_phrase,
    with_article,
)

UNSAID_IS_NIGHT = False
"""Whether nano draws a landscape at night where a request says no time. Either is right."""
LANDSCAPE_SHARE = 0.15
"""The share of random edits, questions and reflections that are about landscapes."""


def draw_landscape(sampler: Sampler) -> DrawingTask:
    """Draw a landscape; the request usually states the time."""
    timed = sampler.chance(0.8)
    landscape = random_landscape(sampler, None if timed else UNSAID_IS_NIGHT)
    prompt = draw_prompt(sampler, landscape_phrase(landscape, timed))
    expected = expected_landscape(landscape, timed)
    return DrawingTask(ability="landscape", kind="draw", prompt=prompt, inputs=(), target=landscape, expected=expected)


def edit_landscape(sampler: Sampler, landscape: Landscape | None = None) -> DrawingTask:
    """Another time, another colour or another subject in a landscape, or in a random one."""
    landscape = landscape or random_landscape(sampler)
    kind = sampler.choice(("time", "repaint", "exchange"))
    if kind == "time":
        target = replace(landscape, is_night=not landscape.is_night)
        prompt = sampler.choice((f"make it {target.time}", f"draw it {TIMES[target.time]}"))
    elif kind == "repaint":
        target = replace(landscape, colour=sampler.other(PAINTS, landscape.colour))
        prompt = sampler.choice(RECOLOURINGS).format(landscape.subject, target.colour)
    else:
        subject = sampler.other(SUBJECTS, landscape.subject)
        target = replace(landscape, subject=subject, colour=sampler.choice(PAINTS))
        prompt = sampler.choice(REPLACEMENTS).format(landscape.subject, landscape_phrase(target, with_time=False))
    expected = expected_landscape(target, True)
    return DrawingTask(ability="edit", kind=kind, prompt=prompt, inputs=(landscape,), target=target, expected=expected)


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


def plant_landscape_mistake(sampler: Sampler, landscape: Landscape, states_time: bool) -> tuple[Landscape, str, str]:
    """The landscape with one mistake, its critique, and the edit that corrects it. states_time: whether the request does."""
    mistakes = ("time", "colour", "subject") if states_time else ("colour", "subject")
    mistake, subject = sampler.choice(mistakes), landscape.subject
    if mistake == "time":
        wrong = replace(landscape, is_night=not landscape.is_night)
        return wrong, f"no, it is {wrong.time}", f"make it {landscape.time}"
    if mistake == "colour":
        colour = sampler.other(PAINTS, landscape.colour)
        return (
            replace(landscape, colour=colour),
            f"no, the {subject} is {colour}",
            f"make the {subject} {landscape.colour}",
        )
    other = sampler.other(SUBJECTS, subject)
    correction = f"replace the {other} with {landscape_phrase(landscape, with_time=False)}"
    return replace(landscape, subject=other), f"no, there is {with_article(other)}", correction
