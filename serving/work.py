"""Carries out jobs on a pipeline: drawing, chat and reflection, each a straight program that pauses between two steps.

A job whose engine fails gets the error, and the engine is opened anew for the next one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..rewriting.plan import RewritePlan
from ..rewriting.rewriter import Rewrite
from ..runtime.chat.reflection import Round, reflect
from ..runtime.drawing import input_size, picture_sizes, starting_latents
from ..runtime.errors import BackendError
from ..runtime.images.pixels import Size
from ..runtime.parameters import drawing_parameters
from ..runtime.pipeline import Pipeline
from ..runtime.previews import preview_images
from ..runtime.request import Request, Step
from .jobs import Job, Outcome
from .requests.bodies import ChatBody, DrawBody, ReflectBody
from .requests.conversations import dialogue
from .requests.inputs import input_images
from .requests.pictures import base64_text, encode_picture
from .scheduler import Turn

BATCH_PIXELS = 1024 * 1024
MAX_BATCH = 8
"""Pictures of a request that are drawn together: as many as this, within that area."""
PREVIEW_PAUSE_S = 0.1


class Observer(Protocol):
    """Counts what an engine does. Called from any thread."""

    def on_first_turn(self, waited_s: float) -> None:
        """A job begins, this long after it was accepted."""

    def on_step(self, seconds: float) -> None:
        """A step of a drawing was taken; called before the job's watchers hear of it."""

    def on_piece(self) -> None:
        """A piece of an answer was generated."""


class Worker:
    """Carries out a bundle's jobs. name: the bundle's, as clients and files see it."""

    def __init__(self, name: str, pipeline: Pipeline, observer: Observer) -> None:
        self.name = name
        self.pipeline = pipeline
        self.observer = observer

    def __call__(self, job: Job, turn: Turn) -> None:
        """Carry out a job, from its first turn to its end. Raises what the runtime raises."""
        self.observer.on_first_turn(time.time() - job.created)
        program = {DrawBody: self._draw, ReflectBody: self._reflect, ChatBody: self._chat}[type(job.body)]
        try:
            outcome = program(job, turn, job.body)  # type: ignore[operator]
        except (BackendError, MemoryError):
            if not turn.has_left:
                self.pipeline.close()
            raise
        turn.leave()
        job.end("done", outcome=outcome)

    def _draw(self, job: Job, turn: Turn, body: DrawBody) -> Outcome:
        manifest = self.pipeline.bundle.manifest
        images = input_images(body)
        started = time.perf_counter()
        rewrite = self._rewritten(body, turn) if body.rewrite else None
        request = body.request(body.prompt if rewrite is None else rewrite.prompt, images)
        drawn, final = picture_sizes(manifest, request, [Size(*image.size) for image in images])
        groups = batches(body.seeds, drawn)
        watch = _Watch(self, job, turn, body.steps * len(groups))
        pictures: list[tuple[int, Image.Image]] = []
        cut_tokens: dict[str, int] = {}
        for seeds in groups:
            noise = [starting_latents(manifest, dataclasses.replace(request, seed=seed), drawn) for seed in seeds]
            batch = dataclasses.replace(request, latents=np.concatenate(noise), images_per_prompt=len(seeds))
            drawing = self.pipeline.start(batch)
            turn.pause()
            while not drawing.done:
                watch.on_step(drawing.step())
            result = drawing.finish()
            cut_tokens = result.cut_tokens
            pictures += zip(seeds, result.images, strict=True)
            watch.pictures_before = len(pictures)
        turn.leave()  # encoding the files needs no engine
        rewritten = {} if rewrite is None else rewrite.parameters
        encoded = [
            encode_picture(image, body.output_format, body.output_compression, {**self._parameters(request, seed), **rewritten})
            for seed, image in pictures
        ]
        facts = {
            "seeds": body.seeds,
            "size": f"{final.width_px}x{final.height_px}",
            "steps": body.steps,
            "seconds": round(time.perf_counter() - started, 3),
            "cut_tokens": cut_tokens,
            "usage": drawing_usage(self.pipeline, request, images, drawn, len(pictures)),
            **({} if rewrite is None else {"revised_prompt": rewrite.prompt, "rewrite_refused": rewrite.refused}),
        }
        return Outcome(facts=facts, pictures=tuple(encoded))

    def _rewritten(self, body: DrawBody, turn: Turn) -> Rewrite:
        """The prompt's rewrite, by the bundle's own language model. Pauses after each token."""

        def on_token(piece: str) -> None:
            self.observer.on_piece()
            turn.pause()

        return RewritePlan().open(self.pipeline, on_token=on_token).rewrite(body.prompt, len(body.images))

    def _reflect(self, job: Job, turn: Turn, body: ReflectBody) -> Outcome:
        request = body.request(body.prompt, input_images(body))
        prompts = self.pipeline.language_model.chat.reflection
        _ = self.pipeline.language_model.vision  # raises before anything is drawn
        watch = _Watch(self, job, turn, body.steps)
        rounds: list[dict[str, Any]] = []
        pictures: list[bytes] = []

        def on_round(judged: Round) -> None:
            parameters = self._parameters(judged.result.request, judged.result.request.seed)
            pictures.append(encode_picture(judged.result.images[0], "png", 100, parameters))
            facts = {"grade": judged.grade, "critique": judged.critique, "edit": judged.edit}
            rounds.append(facts)
            job.publish({"type": "round", "number": len(rounds), **facts, "b64_json": base64_text(pictures[-1])})
            watch.restart()
            turn.pause()

        def ask(question: str, picture: Image.Image) -> str:
            return self.pipeline.chat(question, [picture], may_draw=False, on_token=watch.on_token).text.strip()

        reflection = reflect(
            request,
            body.rounds,
            prompts,
            draw=lambda drawn: self.pipeline.generate(drawn, watch.on_step),
            ask=ask,
            on_round=on_round,
        )
        return Outcome(facts={"rounds": rounds, "best": reflection.best, "seeds": [body.seed or 0]}, pictures=tuple(pictures))

    def _chat(self, job: Job, turn: Turn, body: ChatBody) -> Outcome:
        asked, settings = dialogue(body), body.settings()
        conversation = self.pipeline.start_chat(asked.turns)
        watch = _Watch(self, job, turn, body.steps)
        answer = conversation.stream(asked.prompt, asked.images, settings, on_step=watch.on_step)
        for piece in answer:
            job.publish({"type": "text", "text": piece})
            watch.on_token(piece)
        result, read = answer.finish(), len(conversation.token_ids)
        turn.leave()
        request = settings.request or Request(prompt="")
        parameters = self._parameters(dataclasses.replace(request, prompt=asked.prompt), request.seed)
        written = len(result.token_ids)
        prompt_tokens = read - max(0, written - 1)  # the answer's last token was not read
        facts = {
            "text": result.text,
            "finish_reason": "length" if result.finish_reason in ("length", "context") else "stop",
            "seeds": [body.seed or 0],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written},
        }
        return Outcome(facts=facts, pictures=tuple(encode_picture(image, "png", 100, parameters) for image in result.images))

    def _parameters(self, request: Request, seed: int) -> dict[str, Any]:
        """The parameters that a picture was drawn with, as `omnigen2 generate` writes them; input images are counted."""
        values = drawing_parameters(request, latents=None, bundle=self.name, pipeline=self.pipeline)
        for name in ("latents", "images_per_prompt"):
            del values[name]
        images = [f"image {number}" for number in range(1, len(request.images) + 1)]
        return {**values, "images": images, "seed": seed, "bundle": self.name, "index": 0}


class _Watch:
    """Tells a job's watchers of its steps, and gives the turn away after each."""

    def __init__(self, worker: Worker, job: Job, turn: Turn, total: int) -> None:
        self._worker = worker
        self._job = job
        self._turn = turn
        self._total = total
        self._partial_steps = _partial_steps(job.body, total)
        self._last_preview = 0.0
        self.pictures_before = 0
        self.restart()

    def restart(self) -> None:
        """Begin another drawing's count."""
        self._done = 0
        self._started = self._resumed = time.perf_counter()

    def on_step(self, step: Step) -> None:
        """After a step of a drawing. Raises Cancelled where the job was cancelled."""
        now = time.perf_counter()
        self._worker.observer.on_step(now - self._resumed)
        self._done += 1
        left = (now - self._started) / self._done * (self._total - self._done)
        self._job.step(self._done, self._total, left)
        if self._wants_preview(now):
            self._show(step)
        self._pause()

    def on_token(self, piece: str) -> None:
        """After a piece of an answer. Raises Cancelled where the job was cancelled."""
        self._worker.observer.on_piece()
        self._pause()

    def _pause(self) -> None:
        self._turn.pause()
        self._resumed = time.perf_counter()

    def _wants_preview(self, now: float) -> bool:
        if self._partial_steps is not None:
            return self._done in self._partial_steps
        return self._job.is_kept and self._job.is_watched and now - self._last_preview >= PREVIEW_PAUSE_S

    def _show(self, step: Step) -> None:
        self._last_preview = time.perf_counter()
        for place, image in enumerate(preview_images(self._worker.pipeline.bundle.manifest.vae, step.estimate)):
            picture = encode_picture(image, "png", 100, {})
            index = self.pictures_before + place
            self._job.publish({"type": "preview", "index": index, "step": self._done, "b64_json": base64_text(picture)})


def _partial_steps(body: object, total: int) -> set[int] | None:
    """The steps after which a stream's partial pictures come; None for a job, which shows as many as its watchers see."""
    if not isinstance(body, DrawBody) or not body.stream:
        return None
    return {max(1, round(total * (k + 1) / (body.partial_images + 1))) for k in range(body.partial_images)}


def batches(seeds: Sequence[int], size: Size) -> list[Sequence[int]]:
    """The seeds of pictures of this size in groups that are drawn together."""
    most = max(1, min(MAX_BATCH, BATCH_PIXELS // (size.width_px * size.height_px)))
    return [seeds[first : first + most] for first in range(0, len(seeds), most)]


def drawing_usage(
    pipeline: Pipeline, request: Request, images: Sequence[Image.Image], drawn: Size, pictures: int
) -> dict[str, Any]:
    """The tokens that were read and drawn, in OpenAI's form."""
    manifest = pipeline.bundle.manifest
    text = min(len(pipeline.prompt_encoder.token_ids(request.prompt)), request.max_prompt_tokens)
    seen = sum(_tokens(input_size(manifest, request, Size(*image.size)), manifest.token_px) for image in images)
    output = _tokens(drawn, manifest.token_px) * pictures
    return {
        "input_tokens": text + seen,
        "output_tokens": output,
        "total_tokens": text + seen + output,
        "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
    }


def _tokens(size: Size, pixels: int) -> int:
    return (size.width_px // pixels) * (size.height_px // pixels)
