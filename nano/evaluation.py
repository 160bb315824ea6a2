"""Evaluates a pipeline on nano's world: judges its answers to random tasks and scores each ability."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from PIL import Image

from ..runtime.bundle import Bundle
from ..runtime.chat.exchange import ChatResult
from ..runtime.chat.reflection import Reflection
from ..runtime.checks import check_integer
from ..runtime.errors import RequestError
from ..runtime.images.loading import ImageSource
from ..runtime.progress import Progress, no_progress
from ..runtime.request import OnStep, Request, Result
from ..runtime.step_caches import CachePolicy
from .abilities import ABILITIES, SEED, Ability, Task, chosen_abilities, sample
from .doubts import is_nano
from .judging.judge import find_edit_mistakes, find_task_mistakes
from .scores import Score
from .tasks.chat_tasks import DRAW_TOKEN
from .tasks.conversation_tasks import TalkTask, TalkTurn
from .tasks.task_types import ChatTask, DrawingTask
from .world.render import render
from .world.scenes import SQUARE, PictureSize

SAMPLES = 200
MOST_SAMPLES = 100_000
STEPS = 20
TEXT_GUIDANCE = 2.5
IMAGE_GUIDANCE = 1.5
MAX_REPORTED_FAILURES = 20
"""Failures of each ability in the results."""
MAX_ANSWER_TOKENS = 64
CHAT_BATCH_SIZE = 20
QUICK_SAMPLES = 8
QUICK_ABILITIES = ("one-object", "two-objects", "count", "edit", "combine-two")
"""The quick evaluation of a cache, a backend or a quantized bundle: 40 pictures, 2.5 % each."""


class EvaluatedChat(Protocol):
    """The part of `runtime.chat.conversation.Conversation` that the evaluation uses."""

    def ask(
        self, prompt: str, images: Sequence[ImageSource] = (), *, request: Request, max_new_tokens: int, temperature: float
    ) -> ChatResult: ...


class EvaluatedPipeline(Protocol):
    """The part of `runtime.pipeline.Pipeline` that the evaluation uses."""

    def generate(self, request: Request) -> Result: ...

    def reflect(self, request: Request) -> Reflection: ...

    def start_chat(self) -> EvaluatedChat: ...

    def chat_batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[ImageSource]] = (),
        *,
        request: Request,
        on_step: OnStep,
        max_new_tokens: int,
        temperature: float,
        may_draw: bool,
    ) -> Sequence[ChatResult]: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an evaluation.

    samples: of each ability, 1 to 100,000.
    image_guidance: used where there are input pictures.
    """

    samples: int = SAMPLES
    steps: int = STEPS
    text_guidance: float = TEXT_GUIDANCE
    image_guidance: float = IMAGE_GUIDANCE
    cache: CachePolicy | None = None
    seed: int = SEED

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, 1, "the fewest")
        if self.samples > MOST_SAMPLES:
            raise RequestError(f"samples={self.samples} is above the most, {MOST_SAMPLES}")
        _request(self, "", (), SQUARE, 0)


class JudgedTask(NamedTuple):
    """A task and the mistakes in its answer."""

    task: Task
    mistakes: tuple[str, ...]


def evaluate(
    pipeline: EvaluatedPipeline,
    settings: Settings | None = None,
    abilities: Sequence[Ability] = ABILITIES,
    progress: Progress = no_progress,
) -> list[Score]:
    """The score of each ability. `progress` is called after each answer."""
    settings = settings or Settings()
    total = len(abilities) * settings.samples
    scores: list[Score] = []
    for ability in abilities:
        started = time.perf_counter()
        judged: list[JudgedTask] = []
        tasks = [sample(ability, number, settings.seed) for number in range(settings.samples)]
        for first in range(0, len(tasks), CHAT_BATCH_SIZE):
            for judged_task in _judge_batch(pipeline, ability, tasks[first : first + CHAT_BATCH_SIZE], first, settings):
                judged.append(judged_task)
                progress(len(scores) * settings.samples + len(judged), total, ability.title)
        scores.append(_score(ability, judged, time.perf_counter() - started))
    return scores


def _judge_batch(
    pipeline: EvaluatedPipeline, ability: Ability, tasks: Sequence[Task], first: int, settings: Settings
) -> Iterator[JudgedTask]:
    """Let the pipeline answer tasks of one ability and judge the answers. first: the number of the first task."""
    questions = [task for task in tasks if isinstance(task, ChatTask)]
    if questions:
        yield from map(JudgedTask, questions, judge_answers(pipeline, questions))
    for seed, task in enumerate(tasks, first):
        if isinstance(task, DrawingTask):
            yield JudgedTask(task, judge_drawing(pipeline, task, seed, settings, ability.is_reflected))
        elif isinstance(task, TalkTask):
            yield JudgedTask(task, judge_talk(pipeline, task, seed, settings))


def judge_drawing(
    pipeline: EvaluatedPipeline, task: DrawingTask, seed: int, settings: Settings, is_reflected: bool = False
) -> tuple[str, ...]:
    """Draw the answer to a task, with or without reflection. Returns its mistakes, none if it is right."""
    pictures = tuple(render(scene) for scene in task.inputs)
    request = _request(settings, task.prompt, pictures, task.target.size_px, seed)
    result = pipeline.reflect(request).result if is_reflected else pipeline.generate(request)
    return find_task_mistakes(result.images[0], task)


def judge_talk(pipeline: EvaluatedPipeline, task: TalkTask, seed: int, settings: Settings) -> tuple[str, ...]:
    """Hold a conversation up to its first wrong turn. Returns the mistakes of that one, none if all turns are right.

    An edit is judged against the picture that it started from, which the conversation drew itself.
    """
    chat = pipeline.start_chat()
    last: Image.Image | None = None
    for number, turn in enumerate(task.turns, 1):
        answer = chat.ask(
            turn.prompt,
            [render(scene) for scene in turn.images],
            request=_request(settings, "", (), turn.task.target.size_px if turn.task else SQUARE, seed),
            max_new_tokens=MAX_ANSWER_TOKENS,
            temperature=0.0,
        )
        mistakes = _turn_mistakes(turn, answer, last)
        if mistakes:
            return tuple(f"turn {number}, {turn.prompt!r}: {mistake}" for mistake in mistakes)
        last = answer.images[0] if answer.images else last
    return ()


def _turn_mistakes(turn: TalkTurn, answer: ChatResult, last: Image.Image | None) -> tuple[str, ...]:
    if turn.task is None:
        text = DRAW_TOKEN if answer.result is not None else answer.text.strip()
        return () if text == turn.answer else (f"{text!r}, not {turn.answer!r}",)
    if not answer.images:
        return (f"{answer.text!r}, not a picture",)
    if turn.task.ability == "edit" and last is not None and not turn.images:
        return find_edit_mistakes(answer.images[0], last, turn.task)
    return find_task_mistakes(answer.images[0], turn.task)


def judge_answers(pipeline: EvaluatedPipeline, tasks: Sequence[ChatTask]) -> list[tuple[str, ...]]:
    """Ask questions of one ability. Returns each answer's mistakes.

    A drawing stops after its first step, without guidance: that it started is the answer.
    """
    answers = pipeline.chat_batch(
        [task.question for task in tasks],
        [[render(scene) for scene in task.inputs] for task in tasks],
        request=Request(prompt="", width_px=SQUARE[0], height_px=SQUARE[1], align_size=False, steps=1, text_guidance=1.0),
        on_step=lambda step: False,
        max_new_tokens=MAX_ANSWER_TOKENS,
        temperature=0.0,
        may_draw=tasks[0].ability != "reflect",
    )
    return [_answer_mistakes(task, answer) for task, answer in zip(tasks, answers, strict=True)]


def _answer_mistakes(task: ChatTask, answer: ChatResult) -> tuple[str, ...]:
    text = DRAW_TOKEN if answer.result is not None else answer.text.strip()
    if task.ability == "decide":
        is_right = (text == DRAW_TOKEN) == (task.kind == "picture")
    else:
        is_right = text == task.answer
    return () if is_right else (f"{text!r}, not {task.answer!r}",)


def _request(
    settings: Settings, prompt: str, pictures: tuple[ImageSource, ...], size_px: PictureSize, seed: int
) -> Request:
    return Request(
        prompt=prompt,
        images=pictures,
        width_px=size_px[0],
        height_px=size_px[1],
        steps=settings.steps,
        text_guidance=settings.text_guidance,
        image_guidance=settings.image_guidance,
        cache=settings.cache,
        seed=seed,
    )


def _score(ability: Ability, judged: list[JudgedTask], seconds: float) -> Score:
    kinds: dict[str, tuple[int, int]] = {}
    for task, mistakes in judged:
        right, samples = kinds.get(task.kind, (0, 0))
        kinds[task.kind] = (right + (not mistakes), samples + 1)
    failures = [(_prompt(task), mistakes) for task, mistakes in judged if mistakes]
    return Score(
        name=ability.name,
        title=ability.title,
        target=ability.target,
        right=len(judged) - len(failures),
        samples=len(judged),
        kinds=kinds,
        failures=tuple(failures[:MAX_REPORTED_FAILURES]),
        seconds=seconds,
    )


def _prompt(task: Task) -> str:
    if isinstance(task, TalkTask):
        return " / ".join(turn.prompt for turn in task.turns)
    return task.question if isinstance(task, ChatTask) else task.prompt


class DrawingAccuracy(Protocol):
    """Measures the share of a pipeline's pictures that are right, 0 to 1."""

    def __call__(self, pipeline: EvaluatedPipeline, cache: CachePolicy | None = None) -> float: ...


def scoring_for(bundle: Bundle) -> DrawingAccuracy | None:
    """`drawing_accuracy` for nano or a bundle derived from it. None for any other bundle."""
    return drawing_accuracy if is_nano(bundle) else None


def drawing_accuracy(pipeline: EvaluatedPipeline, cache: CachePolicy | None = None) -> float:
    """The share of right pictures in the quick evaluation."""
    scores = evaluate(pipeline, Settings(samples=QUICK_SAMPLES, cache=cache), chosen_abilities(QUICK_ABILITIES))
    return sum(score.right for score in scores) / sum(score.samples for score in scores)


def to_json(scores: Sequence[Score], settings: Settings, environment: dict[str, Any]) -> dict[str, Any]:
    """The scores with their settings and environment (pipeline, versions, machine)."""
    stored = {**asdict(settings), "cache": None if settings.cache is None else repr(settings.cache)}
    return {**environment, "settings": stored, "scores": [score.to_json() for score in scores]}
