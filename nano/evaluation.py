"""Runs the world's tasks through a pipeline and scores the answers: the table by which every change of quality is judged.

Every sample has a seed of its own, so fewer samples are the first ones of more. Knows the pipeline by two methods only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..runtime.bundle import Bundle
from ..runtime.caches import CachePolicy
from ..runtime.errors import BundleError, RequestError
from ..runtime.images.loading import ImageSource
from ..runtime.manifest import Manifest
from ..runtime.pipeline import bundle_path
from ..runtime.request import Request, Result
from . import drawing_tasks, talking_tasks
from .drawing_tasks import DrawingTask
from .render import render
from .scorer import task_mistakes
from .scores import Score, Target
from .talking_tasks import TalkingTask
from .world import SIDE_PX, Sampler

Task = DrawingTask | TalkingTask
Marked = tuple[Task, tuple[str, ...]]
"""A task and the mistakes in its answer."""
Progress = Callable[[int, int, str], object]

SAMPLES = 200
STEPS = 20
TEXT_GUIDANCE = 2.5
IMAGE_GUIDANCE = 1.5
SEED = 2506_18871
WRONG_KEPT = 20
"""So many wrong answers of each ability are told in the figures."""
LONGEST_ANSWER_TOKENS = 64
ASKED_TOGETHER = 20
FEW = 8
FEW_ABILITIES = ("one-object", "two-objects", "count", "edit", "combine-two")
"""What is drawn to see that a way of drawing works, or a quantized bundle: 40 pictures, so that one is 2.5 %."""


class Answered(Protocol):
    """What is looked at of an answer: `runtime.chat.ChatResult`."""

    @property
    def text(self) -> str: ...

    @property
    def result(self) -> Result | None: ...


class Reflected(Protocol):
    """What is looked at of a reflection: `runtime.reflection.Reflection`."""

    @property
    def result(self) -> Result: ...


class Subject(Protocol):
    """What is examined: `runtime.pipeline.Pipeline`."""

    def generate(self, request: Request) -> Result: ...

    def reflect(self, request: Request) -> Reflected: ...

    def chat_batch(
        self, prompts: Sequence[str], images: Sequence[Sequence[ImageSource]] = (), **settings: Any
    ) -> Sequence[Answered]: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the examination is held. samples: of each ability; image_guidance: where there are input pictures."""

    samples: int = SAMPLES
    steps: int = STEPS
    text_guidance: float = TEXT_GUIDANCE
    image_guidance: float = IMAGE_GUIDANCE
    cache: CachePolicy | None = None
    seed: int = SEED

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise RequestError(f"samples={self.samples} is below the fewest, 1")
        _request(self, "", (), 0)


@dataclass(frozen=True, kw_only=True)
class Ability:
    """A line of the table. make: a task of it; target: how many of its answers have to be right.

    is_reflected: drawn, looked at and corrected. samples_of: the ability whose very samples are asked; by default its own.
    """

    name: str
    title: str
    make: Callable[[Sampler], Task]
    target: Target = Target()
    is_reflected: bool = False
    samples_of: str = ""


def _first(make: Callable[[Sampler], Task], fits: Callable[[Any], bool]) -> Callable[[Sampler], Task]:
    """The first task that fits, of those that `make` gives."""

    def made(sampler: Sampler) -> Task:
        while not fits(task := make(sampler)):
            pass
        return task

    return made


ABILITIES = (
    Ability(
        name="one-object",
        title="one object: shape, colour, size, background",
        make=drawing_tasks.draw_one,
        target=Target(least=0.90, aim=0.98),
    ),
    Ability(
        name="two-objects",
        title="two objects and their relation",
        make=drawing_tasks.draw_two,
        target=Target(least=0.75, aim=0.92),
    ),
    Ability(name="count", title="count 1-3", make=drawing_tasks.draw_count, target=Target(least=0.80, aim=0.95)),
    Ability(name="edit", title="edit, the rest kept", make=drawing_tasks.edit, target=Target(least=0.80, aim=0.95)),
    Ability(
        name="combine-two",
        title="combine two images",
        make=_first(drawing_tasks.combine, lambda task: len(task.inputs) == 2),
        target=Target(least=0.70, aim=0.90),
    ),
    Ability(
        name="combine-three",
        title="combine three images",
        make=_first(drawing_tasks.combine, lambda task: len(task.inputs) == 3),
    ),
    Ability(name="look", title="look: right answers", make=talking_tasks.look, target=Target(least=0.95, aim=0.99)),
    Ability(
        name="decide", title="decide: picture or text", make=talking_tasks.decide, target=Target(least=0.99, aim=1.0)
    ),
    Ability(
        name="reflect-found",
        title="reflect: planted mistakes found",
        make=_first(talking_tasks.reflect, lambda task: task.kind == "critique planted"),
        target=Target(least=0.75, aim=0.95),
    ),
    Ability(
        name="reflect-faulted",
        title="reflect: right pictures wrongly faulted",
        make=_first(talking_tasks.reflect, lambda task: task.kind == "critique right"),
        target=Target(least=0.08, aim=0.01, counts_wrong=True),
    ),
    Ability(
        name="held-out",
        title="held-out combinations, one object",
        make=drawing_tasks.draw_held_out,
        target=Target(least=0.65, aim=0.90),
    ),
    Ability(
        name="two-reflected",
        title="two objects, the same after reflection",
        make=drawing_tasks.draw_two,
        is_reflected=True,
        samples_of="two-objects",
    ),
)


def chosen_abilities(names: Sequence[str]) -> tuple[Ability, ...]:
    """The abilities of these names, in the table's order; "reflect" and "combine" stand for both of theirs.

    All of them for no name. Raises RequestError for an unknown one.
    """
    for name in names:
        if not any(_is_named(ability, name) for ability in ABILITIES):
            known = ", ".join(ability.name for ability in ABILITIES)
            raise RequestError(f"there is no ability {name!r}; choose among {known}")
    return tuple(a for a in ABILITIES if not names or any(_is_named(a, name) for name in names))


def _is_named(ability: Ability, name: str) -> bool:
    return ability.name == name or ability.name.startswith(f"{name}-") and name in ("combine", "reflect")


def sample(ability: Ability, number: int, seed: int = SEED) -> Task:
    """The task number `number` of an ability."""
    line = [each.name for each in ABILITIES].index(ability.samples_of or ability.name)
    return ability.make(Sampler(np.random.SeedSequence([seed, line, number])))


def evaluate(
    pipeline: Subject,
    settings: Settings | None = None,
    abilities: Sequence[Ability] = ABILITIES,
    progress: Progress = lambda done, total, what: None,
) -> list[Score]:
    """The score of each ability. progress(done, total, what): called after each answer."""
    chosen = settings or Settings()
    total = len(abilities) * chosen.samples
    scores: list[Score] = []
    for ability in abilities:
        started = time.perf_counter()
        found: list[Marked] = []
        tasks = [sample(ability, number, chosen.seed) for number in range(chosen.samples)]
        for first in range(0, len(tasks), ASKED_TOGETHER):
            for marked in _answered(pipeline, ability, tasks[first : first + ASKED_TOGETHER], first, chosen):
                found.append(marked)
                progress(len(scores) * chosen.samples + len(found), total, ability.title)
        scores.append(_score(ability, found, time.perf_counter() - started))
    return scores


def _answered(
    pipeline: Subject, ability: Ability, tasks: Sequence[Task], first: int, settings: Settings
) -> Iterator[Marked]:
    """Tasks of one ability, the first being its number `first`, each with the mistakes in its answer."""
    questions = [task for task in tasks if isinstance(task, TalkingTask)]
    if questions:
        yield from zip(questions, answers_mistakes(pipeline, questions), strict=True)
    for seed, task in enumerate(tasks, first):
        if isinstance(task, DrawingTask):
            yield task, picture_mistakes(pipeline, task, seed, settings, ability.is_reflected)


def picture_mistakes(
    pipeline: Subject, task: DrawingTask, seed: int, settings: Settings, is_reflected: bool = False
) -> tuple[str, ...]:
    """What is wrong with the picture that answers a task, at once or after reflection; empty if it is right."""
    pictures = tuple(render(scene) for scene in task.inputs)
    request = _request(settings, task.prompt, pictures, seed)
    result = pipeline.reflect(request).result if is_reflected else pipeline.generate(request)
    return task_mistakes(result.images[0], task)


def answers_mistakes(pipeline: Subject, tasks: Sequence[TalkingTask]) -> list[tuple[str, ...]]:
    """What is wrong with the answers to questions of one ability.

    A decision to draw is known when drawing starts: it ends with its first step, which is not guided.
    """
    answers = pipeline.chat_batch(
        [task.question for task in tasks],
        [[render(scene) for scene in task.inputs] for task in tasks],
        request=Request(prompt="", height_px=SIDE_PX, width_px=SIDE_PX, align_size=False, steps=1, text_guidance=1.0),
        on_step=lambda step: False,
        max_new_tokens=LONGEST_ANSWER_TOKENS,
        temperature=0.0,
        may_draw=tasks[0].ability != "reflect",
    )
    return [_wrong_answer(task, answer) for task, answer in zip(tasks, answers, strict=True)]


def _wrong_answer(task: TalkingTask, answer: Answered) -> tuple[str, ...]:
    said = talking_tasks.PICTURE if answer.result is not None else answer.text.strip()
    if task.ability == "decide":
        right = (said == talking_tasks.PICTURE) == (task.kind == "picture")
    else:
        right = said == task.answer
    return () if right else (f"{said!r}, not {task.answer!r}",)


def _request(settings: Settings, prompt: str, pictures: tuple[Any, ...], seed: int) -> Request:
    return Request(
        prompt=prompt,
        images=pictures,
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        steps=settings.steps,
        text_guidance=settings.text_guidance,
        image_guidance=settings.image_guidance,
        cache=settings.cache,
        seed=seed,
    )


def _score(ability: Ability, found: list[Marked], seconds: float) -> Score:
    kinds: dict[str, tuple[int, int]] = {}
    for task, mistakes in found:
        right, all_of_kind = kinds.get(task.kind, (0, 0))
        kinds[task.kind] = (right + (not mistakes), all_of_kind + 1)
    wrong = [(_asked(task), mistakes) for task, mistakes in found if mistakes]
    return Score(
        name=ability.name,
        title=ability.title,
        target=ability.target,
        right=len(found) - len(wrong),
        samples=len(found),
        kinds=kinds,
        wrong=tuple(wrong[:WRONG_KEPT]),
        seconds=seconds,
    )


def _asked(task: Task) -> str:
    return task.question if isinstance(task, TalkingTask) else task.prompt


class Scoring(Protocol):
    """Judges a model's pictures: the part of them that is right, 0 to 1."""

    def __call__(self, pipeline: Subject, cache: CachePolicy | None = None) -> float: ...


def scoring_for(bundle: Bundle) -> Scoring | None:
    """`drawn_rightly` for nano as it ships or a bundle made from it, which has nano's tokenizer; None for any other bundle."""
    try:
        shipped = Bundle.open(bundle_path("nano"))
    except BundleError:  # a release without a model
        return None
    return drawn_rightly if _tokenizer_hash(bundle.manifest) == _tokenizer_hash(shipped.manifest) else None


def _tokenizer_hash(manifest: Manifest) -> str:
    return next(spec.sha256 for spec in manifest.files if spec.file == manifest.tokenizer)


def drawn_rightly(pipeline: Subject, cache: CachePolicy | None = None) -> float:
    """The part of the first few samples of drawing, editing and combining two that come out right: see `FEW`."""
    scores = evaluate(pipeline, Settings(samples=FEW, cache=cache), chosen_abilities(FEW_ABILITIES))
    return sum(score.right for score in scores) / sum(score.samples for score in scores)


def to_json(scores: Sequence[Score], settings: Settings, facts: dict[str, Any]) -> dict[str, Any]:
    """The scores with how they were found; facts: what was examined, and on what."""
    held = {**asdict(settings), "cache": None if settings.cache is None else repr(settings.cache)}
    return {**facts, "settings": held, "scores": [score.to_json() for score in scores]}
