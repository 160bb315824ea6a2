"""The abilities that nano is scored on, and the random tasks of each.

Every sample has its own seed, so a smaller evaluation uses the first samples of a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..runtime.errors import RequestError
from .scores import Target
from .tasks import chat_tasks, conversation_tasks, drawing_tasks, edits, landscape_tasks, reflection_tasks
from .tasks.conversation_tasks import TalkTask
from .tasks.paraphrase import paraphrase
from .tasks.task_types import ChatTask, DrawingTask
from .world.scenes import SIZES_PX, SQUARE, Sampler

Task = DrawingTask | ChatTask | TalkTask

SEED = 2506_18871


@dataclass(frozen=True, kw_only=True)
class Ability:
    """A row of the score table.

    make: returns a random task.
    target: of the rate of right answers.
    is_reflected: pictures are drawn with `reflect` instead of `generate`.
    samples_of: the name of another ability whose samples are used, "" for its own.
    """

    name: str
    title: str
    make: Callable[[Sampler], Task]
    target: Target = Target()
    is_reflected: bool = False
    samples_of: str = ""


def _filtered(make: Callable[[Sampler], Task], condition: Callable[[Any], bool]) -> Callable[[Sampler], Task]:
    """A maker of only those tasks that meet the condition."""

    def make_filtered(sampler: Sampler) -> Task:
        while not condition(task := make(sampler)):
            pass
        return task

    return make_filtered


def _in_another_size(sampler: Sampler) -> DrawingTask:
    """A drawing or an edit of a wide or a tall picture."""
    sampler.size_px = sampler.choice([size for size in SIZES_PX if size != SQUARE])
    task = sampler.choice((drawing_tasks.draw, drawing_tasks.draw, edits.edit))(sampler)
    return replace(task, kind="wide" if sampler.size_px[0] > SQUARE[0] else "tall")


def _in_other_words(sampler: Sampler) -> DrawingTask:
    """A request for a drawing or an edit in other words than WORLD.md's rules."""
    task = sampler.choice((drawing_tasks.draw, drawing_tasks.draw, edits.edit))(sampler)
    while True:
        prompt = paraphrase(task.prompt, sampler, is_request=True)
        if prompt != task.prompt:
            return replace(task, ability="other words", prompt=prompt)


ABILITIES = (
    Ability(
        name="one-object",
        title="one object: shape, colour, size, background",
        make=drawing_tasks.draw_one,
        target=Target(required=0.97, aim=0.99),
    ),
    Ability(
        name="two-objects",
        title="two objects and their relation",
        make=drawing_tasks.draw_two,
        target=Target(required=0.93, aim=0.97),
    ),
    Ability(name="count", title="count 1-3", make=drawing_tasks.draw_count, target=Target(required=0.92, aim=0.97)),
    Ability(name="edit", title="edit, the rest kept", make=edits.edit, target=Target(required=0.97, aim=0.99)),
    Ability(
        name="combine-two",
        title="combine two images",
        make=_filtered(drawing_tasks.combine, lambda task: len(task.inputs) == 2),
        target=Target(required=0.97, aim=0.99),
    ),
    Ability(
        name="combine-three",
        title="combine three images",
        make=_filtered(drawing_tasks.combine, lambda task: len(task.inputs) == 3),
        target=Target(required=0.92, aim=0.97),
    ),
    Ability(
        name="look",
        title="look: right answers",
        make=chat_tasks.answer_question,
        target=Target(required=0.98, aim=0.99),
    ),
    Ability(
        name="decide", title="decide: picture or text", make=chat_tasks.decide, target=Target(required=0.99, aim=1.0)
    ),
    Ability(
        name="reflect-found",
        title="reflect: planted mistakes found",
        make=_filtered(reflection_tasks.reflect, lambda task: task.kind == "critique planted"),
        target=Target(required=0.90, aim=0.95),
    ),
    Ability(
        name="reflect-faulted",
        title="reflect: right pictures wrongly faulted",
        make=_filtered(reflection_tasks.reflect, lambda task: task.kind == "critique right"),
        target=Target(required=0.05, aim=0.01, counts_wrong=True),
    ),
    Ability(
        name="held-out",
        title="held-out combinations, one object",
        make=drawing_tasks.draw_held_out,
        target=Target(required=0.90, aim=0.95),
    ),
    Ability(
        name="two-reflected",
        title="two objects, the same after reflection",
        make=drawing_tasks.draw_two,
        is_reflected=True,
        samples_of="two-objects",
    ),
    Ability(
        name="other-words",
        title="draw and edit, in other words",
        make=_in_other_words,
        target=Target(required=0.90, aim=0.95),
    ),
    Ability(
        name="styles",
        title="outlined and striped things",
        make=drawing_tasks.draw_styled,
        target=Target(required=0.90, aim=0.95),
    ),
    Ability(
        name="landscapes",
        title="landscapes, by day and at night",
        make=landscape_tasks.draw_landscape,
        target=Target(required=0.90, aim=0.95),
    ),
    Ability(
        name="other-sizes",
        title="draw and edit wide and tall pictures",
        make=_in_another_size,
        target=Target(required=0.90, aim=0.95),
    ),
    Ability(
        name="conversation",
        title="conversation: draw, ask, edit, ask",
        make=conversation_tasks.four_turns,
        target=Target(required=0.85, aim=0.90),
    ),
    Ability(
        name="chained-edits",
        title="draw and five edits of it, all right",
        make=conversation_tasks.chained_edits,
        target=Target(required=0.90, aim=0.95),
    ),
)


def chosen_abilities(names: Sequence[str]) -> tuple[Ability, ...]:
    """The abilities of these names, in the table's order; all for no names. "reflect" and "combine" name two abilities each.

    Raises RequestError for an unknown name.
    """
    for name in names:
        if not any(_is_named(ability, name) for ability in ABILITIES):
            known = ", ".join(ability.name for ability in ABILITIES)
            raise RequestError(f"there is no ability {name!r}; choose among {known}")
    return tuple(a for a in ABILITIES if not names or any(_is_named(a, name) for name in names))


def _is_named(ability: Ability, name: str) -> bool:
    return ability.name == name or ability.name.startswith(f"{name}-") and name in ("combine", "reflect")


def sample(ability: Ability, number: int, seed: int = SEED) -> Task:
    """An ability's task number `number`."""
    row = [each.name for each in ABILITIES].index(ability.samples_of or ability.name)
    return ability.make(Sampler(np.random.SeedSequence([seed, row, number])))
