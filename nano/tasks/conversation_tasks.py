"""Random conversations of several turns: small talk, drawings, edits of what was drawn or shown, and questions about it.

Knows the world and its wording; nothing of pixels, tokens or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..world.scenes import Sampler
from .chat_tasks import DRAW_TOKEN, SMALL_TALK, answer_question
from .drawing_tasks import combine, draw
from .edits import edit
from .task_types import AnyScene, DrawingTask

CHAINED_EDITS = 5


@dataclass(frozen=True, kw_only=True)
class TalkTurn:
    """A turn of a conversation.

    prompt: the user's words.
    images: the scenes of the pictures that the user shows with them.
    answer: the only right answer; DRAW_TOKEN for a picture.
    task: the drawing that answers the turn, or None. Its inputs are the pictures that the conversation shows it.
    """

    prompt: str
    images: tuple[AnyScene, ...] = ()
    answer: str
    task: DrawingTask | None = None


@dataclass(frozen=True, kw_only=True)
class TalkTask:
    """A conversation.

    ability: the ability that it tests, a row of the score table.
    kind: the kind of conversation within the ability.
    """

    ability: str
    kind: str
    turns: tuple[TalkTurn, ...]


class Talk:
    """A conversation in the making.

    shown: the scenes of the last turn that had pictures: those that it drew, else those that the user showed.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.turns: list[TalkTurn] = []
        self.shown: tuple[AnyScene, ...] = ()

    def greet(self) -> None:
        """Small talk."""
        question, answer = self.sampler.choice(SMALL_TALK)
        self._say(TalkTurn(prompt=question, answer=answer))

    def draw(self) -> None:
        """A new picture, whatever was shown before."""
        self._draw(draw(self.sampler))

    def edit(self) -> None:
        """An edit of the only picture that was shown last."""
        self._draw(edit(self.sampler, self.shown[0]))

    def ask(self) -> None:
        """A question about the only picture that was shown last."""
        task = answer_question(self.sampler, self.shown[0])
        self._say(TalkTurn(prompt=task.question, answer=task.answer))

    def show(self) -> None:
        """The user's own pictures: with a question, or to be edited or combined."""
        share = self.sampler.rng.random()
        if share < 0.4:
            question = answer_question(self.sampler)
            self.shown = question.inputs
            self._say(TalkTurn(prompt=question.question, images=question.inputs, answer=question.answer))
        else:
            task = edit(self.sampler) if share < 0.75 else combine(self.sampler)
            self._draw(task, task.inputs)

    def _draw(self, task: DrawingTask, images: tuple[AnyScene, ...] = ()) -> None:
        self.turns.append(TalkTurn(prompt=task.prompt, images=images, answer=DRAW_TOKEN, task=task))
        self.shown = (task.target,)

    def _say(self, turn: TalkTurn) -> None:
        self.turns.append(turn)


def converse(sampler: Sampler, turns: int) -> tuple[TalkTurn, ...]:
    """A random conversation: anything in any order."""
    talk = Talk(sampler)
    for _ in range(turns):
        share = sampler.rng.random()
        if share < 0.12:
            talk.greet()
        elif len(talk.shown) != 1:
            (talk.draw if share < 0.75 else talk.show)()
        elif share < 0.25:
            talk.draw()
        elif share < 0.32:
            talk.show()
        else:
            (talk.edit if share < 0.66 else talk.ask)()
    return tuple(talk.turns)


def four_turns(sampler: Sampler) -> TalkTask:
    """Draw, ask, edit, ask; small talk comes first in half of them."""
    talk, is_greeted = Talk(sampler), sampler.chance(0.5)
    for step in (*((talk.greet,) if is_greeted else ()), talk.draw, talk.ask, talk.edit, talk.ask):
        step()
    return TalkTask(ability="conversation", kind="after small talk" if is_greeted else "at once", turns=tuple(talk.turns))


def chained_edits(sampler: Sampler) -> TalkTask:
    """A drawing and five edits, each of the picture before."""
    talk = Talk(sampler)
    for step in (talk.draw, *CHAINED_EDITS * (talk.edit,)):
        step()
    return TalkTask(ability="chained edits", kind="five edits", turns=tuple(talk.turns))
