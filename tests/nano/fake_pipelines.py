"""Pipelines without a model: one answers every task as it should, one never does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from omnigen2_rt.nano.drawing_tasks import DrawingTask
from omnigen2_rt.nano.evaluation import Ability, Settings, Task, sample
from omnigen2_rt.nano.render import render
from omnigen2_rt.nano.talking_tasks import PICTURE, TalkingTask
from omnigen2_rt.nano.world import COLOURS
from omnigen2_rt.runtime.request import Request, Result


def result_of(request: Request, images: list[Image.Image]) -> Result:
    return Result(images=images, latents=np.zeros((1, 1, 1, 1), np.float32), steps=(), timings={}, request=request)


@dataclass(frozen=True)
class FakeAnswer:
    text: str
    result: Result | None


@dataclass(frozen=True)
class FakeReflection:
    result: Result


class Knowing:
    """Knows which tasks will come, and gives each its own answer."""

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
        return result_of(request, [self.drawn(task)])

    def reflect(self, request: Request) -> FakeReflection:
        return FakeReflection(self.generate(request))

    def chat_batch(
        self, prompts: Sequence[str], images: Sequence[Sequence[Any]] = (), **settings: Any
    ) -> list[FakeAnswer]:
        self.chat_settings.append(settings)
        return [self._answer(prompt, given, settings) for prompt, given in zip(prompts, images, strict=True)]

    def _answer(self, prompt: str, given: Sequence[Any], settings: dict[str, Any]) -> FakeAnswer:
        task = next(self._tasks)
        assert isinstance(task, TalkingTask)
        assert prompt == task.question and len(given) == len(task.inputs)
        said = self.said(task)
        if said != PICTURE:
            return FakeAnswer(said, None)
        assert settings["may_draw"]
        return FakeAnswer("", result_of(settings["request"], []))

    def drawn(self, task: DrawingTask) -> Image.Image:
        return render(task.target)

    def said(self, task: TalkingTask) -> str:
        return task.answer


class Failing(Knowing):
    """Draws everything on another background and gives the wrong answer to everything."""

    def drawn(self, task: DrawingTask) -> Image.Image:
        taken = {task.target.background, *(thing.colour for thing in task.target.things)}
        return render(replace(task.target, background=next(colour for colour in COLOURS if colour not in taken)))

    def said(self, task: TalkingTask) -> str:
        return "nonsense" if task.answer == PICTURE or task.ability != "decide" else PICTURE
