"""Fake pipelines without a model: one answers every task rightly, one never does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from omnigen2_rt.nano.abilities import Ability, Task, sample
from omnigen2_rt.nano.evaluation import Settings
from omnigen2_rt.nano.tasks.chat_tasks import DRAW_TOKEN
from omnigen2_rt.nano.tasks.conversation_tasks import TalkTask, TalkTurn
from omnigen2_rt.nano.tasks.task_types import ChatTask, DrawingTask
from omnigen2_rt.nano.world.landscapes import SUBJECTS, Landscape
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import COLOURS
from omnigen2_rt.runtime.chat.exchange import ChatResult
from omnigen2_rt.runtime.chat.reflection import Reflection, Round
from omnigen2_rt.runtime.request import Request, Result


def result_of(request: Request, images: list[Image.Image]) -> Result:
    return Result(images=images, latents=np.zeros((1, 1, 1, 1), np.float32), steps=(), timings={}, request=request)


def chat_result(text: str, result: Result | None = None) -> ChatResult:
    return ChatResult(text=text, token_ids=(), images=[], result=result)


class OraclePipeline:
    """Knows all tasks in advance and gives each the right answer."""

    def __init__(self, abilities: Iterable[Ability], settings: Settings) -> None:
        self._tasks: Iterator[Task] = iter(
            [sample(ability, number, settings.seed) for ability in abilities for number in range(settings.samples)]
        )
        self.requests: list[Request] = []
        self.chat_settings: list[dict[str, Any]] = []

    def generate(self, request: Request) -> Result:
        self.requests.append(request)
        task = next(self._tasks)
        assert isinstance(task, DrawingTask)
        assert request.prompt == task.prompt and len(request.images) == len(task.inputs)
        return result_of(request, [self.drawing(task)])

    def reflect(self, request: Request) -> Reflection:
        return Reflection(rounds=(Round(result=self.generate(request), grade=None),), best=0)

    def start_chat(self) -> OracleChat:
        task = next(self._tasks)
        assert isinstance(task, TalkTask)
        return OracleChat(self, task)

    def chat_batch(
        self, prompts: Sequence[str], images: Sequence[Sequence[Any]] = (), **settings: Any
    ) -> list[ChatResult]:
        self.chat_settings.append(settings)
        return [self._chat(prompt, inputs, settings) for prompt, inputs in zip(prompts, images, strict=True)]

    def _chat(self, prompt: str, inputs: Sequence[Any], settings: dict[str, Any]) -> ChatResult:
        task = next(self._tasks)
        assert isinstance(task, ChatTask)
        assert prompt == task.question and len(inputs) == len(task.inputs)
        answer = self.answer(task)
        if answer != DRAW_TOKEN:
            return chat_result(answer)
        assert settings["may_draw"]
        return chat_result("", result_of(settings["request"], []))

    def drawing(self, task: DrawingTask) -> Image.Image:
        return render(task.target)

    def answer(self, task: ChatTask) -> str:
        return task.answer

    def words(self, turn: TalkTurn) -> str:
        return turn.answer


class OracleChat:
    """A conversation that knows its task."""

    def __init__(self, pipeline: OraclePipeline, task: TalkTask) -> None:
        self._pipeline = pipeline
        self._turns = iter(task.turns)

    def ask(self, prompt: str, images: Sequence[Any] = (), *, request: Request, **settings: Any) -> ChatResult:
        turn = next(self._turns)
        assert prompt == turn.prompt and len(images) == len(turn.images)
        if turn.task is None:
            return chat_result(self._pipeline.words(turn))
        result = result_of(request, [self._pipeline.drawing(turn.task)])
        return replace(chat_result("", result), images=result.images)


class FailingPipeline(OraclePipeline):
    """Draws everything on a wrong background, landscapes with another subject, and gives only wrong answers."""

    def drawing(self, task: DrawingTask) -> Image.Image:
        if isinstance(task.target, Landscape):
            other = next(subject for subject in SUBJECTS if subject != task.target.subject)
            return render(replace(task.target, subject=other))
        taken = {task.target.background, *(thing.colour for thing in task.target.things)}
        return render(replace(task.target, background=next(colour for colour in COLOURS if colour not in taken)))

    def answer(self, task: ChatTask) -> str:
        return "nonsense" if task.answer == DRAW_TOKEN or task.ability != "decide" else DRAW_TOKEN

    def words(self, turn: TalkTurn) -> str:
        return "nonsense"
