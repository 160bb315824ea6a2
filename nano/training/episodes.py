"""The training's data: requests, questions and whole conversations as token ids, with their pictures.

Uses the runtime's template and positions, and lays a conversation out as `runtime.chat.Conversation` does: a picture that a turn
drew is shown in the next turn under its number, and a drawing starts from the pictures of its turn, or without any from the last
ones before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ...exporter.chat_template import PLACEHOLDER, read_prompt_templates
from ...exporter.json_files import read_json
from ...exporter.processor import IMAGE_TAG
from ...reference.mllm import MLLMConfig
from ...reference.weights import read_config
from ...runtime.manifest import ImageProcessorParameters
from ...runtime.mllm.image_processor import vision_patches
from ...runtime.mllm.mrope import chat_positions
from ...runtime.mllm.tokenizer import Tokenizer
from ..tasks.chat_tasks import DRAW_TOKEN, answer_count_question, answer_question, answer_relation_question
from ..tasks.conversation_tasks import TalkTurn, converse
from ..tasks.drawing_tasks import combine, draw_count, draw_one, draw_styled, draw_two
from ..tasks.edits import edit, redraw
from ..tasks.landscape_tasks import draw_landscape
from ..tasks.paraphrase import paraphrase
from ..tasks.reflection_tasks import reflect
from ..tasks.task_types import AnyScene, DrawingTask
from ..world.render import render
from ..world.scenes import SIZES_PX, PictureSize, Sampler, Scene

T = TypeVar("T")

END = "<|im_end|>"
KINDS = ((0.42, "request"), (0.2, "talk"), (0.16, "look"), (0.22, "reflect"))
"""Shares of the kinds of episodes."""
REQUESTS = (
    (0.08, draw_one),
    (0.13, draw_two),
    (0.11, draw_count),
    (0.12, draw_styled),
    (0.1, draw_landscape),
    (0.24, edit),
    (0.03, redraw),
    (0.19, combine),
)
"""Shares of the requests for a picture."""
QUESTIONS = ((0.4, answer_question), (0.15, answer_relation_question), (0.45, answer_count_question))
"""Shares of the questions about a picture."""
MOST_TURNS = 7
PARAPHRASED = 0.5
AUGMENTED, AUGMENT_DENTS, AUGMENT_BLUR_PX = 0.5, 0.03, 0.8
"""Pictures that are shown have the small flaws of a drawing: their share, the standard deviation of dents, the largest blur."""
MOST_REFERENCES = 3
ANSWERS = ("decide", "small talk", "look", "reflect")
"""Kinds of answers."""


class Picture(NamedTuple):
    """A scene, and how its picture looks: the same with small flaws, and a blur."""

    scene: AnyScene
    appearance: AnyScene
    blur_px: float = 0.0

    def render(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8."""
        picture = render(self.appearance)
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(self.blur_px)) if self.blur_px else picture)


def flawless(scene: AnyScene) -> Picture:
    """The scene's picture as it should be."""
    return Picture(scene, scene)


def flawed(scene: AnyScene, sampler: Sampler) -> Picture:
    """The scene's picture with the small flaws of a right drawing; without any with a chance of one half."""
    if not sampler.chance(AUGMENTED):
        return flawless(scene)
    appearance = scene
    if isinstance(scene, Scene):
        things = (
            thing if thing.dents or thing.style else replace(thing, dents=sampler.dents(AUGMENT_DENTS, 0.0))
            for thing in scene.things
        )
        appearance = replace(scene, things=tuple(things))
    return Picture(scene, appearance, float(sampler.rng.uniform(0, AUGMENT_BLUR_PX)))


class Answer(NamedTuple):
    """The tokens of an answer, from `start` to `end`, and the index of its kind in ANSWERS."""

    start: int
    end: int
    kind: int


class Drawing(NamedTuple):
    """A drawing: the tokens whose hidden states guide it, from `start` to `end`, and the indices of its pictures."""

    start: int
    end: int
    target: int
    references: tuple[int, ...]


@dataclass
class Episode:
    """A request, a question or a conversation.

    ids: token ids, a picture's repeated for each of its embeddings.
    shown: the indices of the pictures that the ids show, in their order.
    pictures: all pictures.
    """

    ids: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def add(self, picture: Picture) -> int:
        """The picture's index."""
        self.pictures.append(picture)
        return len(self.pictures) - 1


class Encoder:
    """The checkpoint's tokenizer, templates and image sizes.

    grids: the patches (frames, rows, columns) of a picture of each size.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = Tokenizer(checkpoint / "processor" / "tokenizer.json")
        self.templates = read_prompt_templates(checkpoint)
        self.image_token = self.tokenizer.token_id("<|image_pad|>")
        self.mllm_config = MLLMConfig.from_json(read_config(checkpoint / "mllm"))
        stored = read_json(checkpoint / "processor" / "preprocessor_config.json")
        names = ImageProcessorParameters.__dataclass_fields__
        self.image_processor = ImageProcessorParameters(**{name: stored[name] for name in names})
        self.grids = {size: vision_patches(Image.new("RGB", size), self.image_processor)[1] for size in SIZES_PX}

    def token_grid(self, size_px: PictureSize) -> tuple[int, int]:
        """The rows and columns of image tokens of a picture of a size."""
        _, rows, columns = self.grids[size_px]
        return rows // self.image_processor.merge_size, columns // self.image_processor.merge_size

    def request(self, prompt: str, task: DrawingTask | None = None, sampler: Sampler | None = None) -> Episode:
        """A request with the drawing template, and the drawing that answers it."""
        ids = self.tokenizer.encode(self.templates.drawing.replace(PLACEHOLDER, prompt))
        episode = Episode(ids=ids)
        if task is not None and sampler is not None:
            references = tuple(episode.add(flawed(scene, sampler)) for scene in task.inputs)
            episode.drawings.append(Drawing(0, len(ids), episode.add(flawless(task.target)), references))
        return episode

    def question(self, prompt: str, pictures: Sequence[Picture] = (), answer: str = "", kind: str = "look") -> Episode:
        """A conversation's first turn; without an answer, up to where it begins."""
        episode = Episode(pictures=list(pictures))
        self._ask(episode, self.templates.first_turn, prompt, range(len(pictures)), 1)
        if answer:
            self._answer(episode, answer, kind)
            self._end(episode)
        return episode

    def talk(self, turns: Sequence[TalkTurn], sampler: Sampler) -> Episode:
        """A conversation with the drawings that answer its turns."""
        episode, drawn, last, count, ended = Episode(), list[int](), list[int](), 0, 0
        for turn in turns:
            given = [episode.add(flawed(scene, sampler)) for scene in turn.images]
            shown, start = [*drawn, *given], ended
            template = self.templates.next_turn if episode.ids else self.templates.first_turn
            self._ask(episode, template, turn.prompt, shown, count - len(drawn) + 1)
            count += len(given)
            asked = len(episode.ids)
            self._answer(episode, turn.answer, "decide" if turn.task else "look" if shown or last else "small talk")
            drawn, last = [], given or drawn or last  # a drawing starts from the pictures of its turn alone
            ended = len(episode.ids)
            if turn.task is not None:
                target = episode.add(flawless(turn.task.target))
                episode.drawings.append(Drawing(start, asked, target, tuple(last)))
                drawn = last = [episode.add(flawed(turn.task.target, sampler))]
                count += 1
                ended -= 1  # the draw token is read with the next turn
        self._end(episode)
        return episode

    def _ask(self, episode: Episode, template: str, prompt: str, shown: Sequence[int], first_number: int) -> None:
        tags = "".join(IMAGE_TAG.replace("{number}", str(first_number + k)) for k in range(len(shown)))
        copies = math.prod(self.token_grid(episode.pictures[shown[0]].scene.size_px)) if shown else 0
        for number in self.tokenizer.encode(template.replace(PLACEHOLDER, tags + prompt)):
            episode.ids += [number] * (copies if number == self.image_token else 1)
        episode.shown += shown

    def _answer(self, episode: Episode, answer: str, kind: str) -> None:
        """Words and the token that ends them, which the next turn's template begins with; or the draw token."""
        start = len(episode.ids)
        episode.ids += self.tokenizer.encode(answer)
        end = len(episode.ids) + (answer != DRAW_TOKEN)
        episode.answers.append(Answer(start, end, ANSWERS.index(kind)))

    def _end(self, episode: Episode) -> None:
        episode.ids += self.tokenizer.encode(END)

    def positions(self, episode: Episode) -> NDArray[np.int64]:
        """The M-RoPE positions of an episode's tokens, (3, T)."""
        is_image = [number == self.image_token for number in episode.ids]
        return chat_positions(0, is_image, [self.token_grid(episode.pictures[k].scene.size_px) for k in episode.shown])


def random_episode(encoder: Encoder, sampler: Sampler) -> Episode:
    """A random episode of the training's mixture."""
    kind = _drawn(sampler, KINDS)
    if kind == "request":
        task = _drawn(sampler, REQUESTS)(sampler)
        return encoder.request(_reworded(task.prompt, sampler, True), task, sampler)
    if kind == "talk":
        turns = converse(sampler, 1 + int(sampler.rng.integers(MOST_TURNS)))
        is_reworded = sampler.chance(0.5)
        reworded = (
            replace(turn, prompt=_reworded(turn.prompt, sampler, turn.task is not None) if is_reworded else turn.prompt)
            for turn in turns
        )
        return encoder.talk(tuple(reworded), sampler)
    if kind == "look":
        task_asked = _drawn(sampler, QUESTIONS)(sampler)
        prompt = _reworded(task_asked.question, sampler, False)
    else:
        task_asked = reflect(sampler)
        prompt = task_asked.question
    pictures = [flawed(scene, sampler) for scene in task_asked.inputs]
    return encoder.question(prompt, pictures, task_asked.answer, kind)


def _drawn(sampler: Sampler, shares: Sequence[tuple[float, T]]) -> T:
    """One of the options, each with its share."""
    point = float(sampler.rng.random())
    for share, option in shares:
        point -= share
        if point < 0:
            return option
    return shares[-1][1]


def _reworded(prompt: str, sampler: Sampler, is_request: bool) -> str:
    return paraphrase(prompt, sampler, is_request) if sampler.chance(PARAPHRASED) else prompt
