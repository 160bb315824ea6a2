"""The pipeline: a request goes in, pictures come out. Torch-free; what other applications embed.

It reads like the model is used: encode the prompts, encode the references, denoise, decode. What it knows of the model is the
bundle's manifest; what it knows of the engine is the backend's protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .backends import Backend, open_backend
from .backends.sessions import Sessions
from .bundle import Bundle
from .chat.batch import ask_together
from .chat.conversation import Chat, ChatResult, ChatSettings, OnToken, question_ids
from .chat.reflection import OnRound, Reflection, reflect
from .denoiser import Conditions, Denoiser, OnStep
from .errors import BackendError, BundleError, RequestError
from .guidance import branches, uses_negative_prompt
from .images.loading import (
    ImageSource,
    Size,
    load_image,
    output_size,
    reference_size,
    resize_bilinear,
    to_images,
    to_pixels,
)
from .manifest import MANIFEST
from .mllm.language_model import Context, LanguageModel
from .mllm.prompt_encoder import PromptEncoder
from .noise import gaussian_noise
from .request import Request, Result
from .schedulers import timesteps

States = NDArray[np.float32]
NANO = Path(__file__).parent.parent / "nano" / "checkpoint"


def load(
    bundle: str | Path = "nano",
    *,
    backend: str = "auto",
    precision: str = "auto",
    memory_limit_bytes: int | None = None,
    threads: int | None = None,
) -> Pipeline:
    """Open a bundle: its folder, or "nano" for the small model that ships. Components are loaded when they are first needed.

    backend: "auto" or a backend's name (`omnigen2 doctor` lists them). precision: "auto", "fp32", "fp16" or "bf16".
    memory_limit_bytes: keep open weights below this, closing components that aren't in use; slower, with the same pictures. A
    component that is larger alone is streamed; then pictures are the same up to the precision's rounding.
    threads: CPU threads, by default as many as the engine sees fit. Raises BundleError or BackendError.
    """
    check_limits(memory_limit_bytes=memory_limit_bytes, threads=threads)
    opened = Bundle.open(bundle_path(bundle))
    made = open_backend(opened, backend, precision, threads, memory_limit_bytes)
    return Pipeline(opened, made, memory_limit_bytes)


def check_limits(**limits: int | None) -> None:
    """Raises BackendError for a limit that is neither None nor a whole number of 1 or more."""
    for name, value in limits.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise BackendError(f"{name}={value!r} is not a whole number of 1 or more, or None")


def bundle_path(bundle: str | Path) -> Path:
    """The folder of a bundle. "nano" is the one that ships; a folder of that name is "./nano". Raises BundleError without it."""
    if bundle != "nano":
        return Path(bundle)
    if not (NANO / MANIFEST).is_file():
        raise BundleError("this release ships no model: give the folder of a bundle made by `omnigen2 export`")
    return NANO


class Pipeline:
    """An opened bundle on a backend. Not for several threads at once; use it in a `with` block to free it at the end."""

    def __init__(self, bundle: Bundle, backend: Backend, memory_limit_bytes: int | None = None) -> None:
        self.bundle = bundle
        self.backend = backend
        self.sessions = Sessions(bundle, backend, memory_limit_bytes)
        self._language_model = LanguageModel(bundle, self.sessions, backend)
        self._prompts = PromptEncoder(bundle, self._language_model)

    def generate(self, request: Request, on_step: OnStep | None = None) -> Result:
        """Draw a request. `on_step(step)` is called after each step; if it returns False, drawing stops.

        Returns the pictures with their latents and steps; a drawing that was stopped has its steps and no pictures. Raises
        RequestError where the request doesn't fit the bundle, BackendError where the engine fails.
        """
        return self._draw(request, lambda branch: self._prompt_states(request, branch), on_step)

    def draw(self, request: Request, cond: States, negative: str, on_step: OnStep | None = None) -> Result:
        """Draw from hidden states (T, Dt) float32 that are there already, instead of from the request's prompt.

        negative: the text of the negative turn, in the chat template. Like `generate` otherwise.
        """
        template = self._language_model.chat_facts.first_turn.replace("{prompt}", negative)

        def states(branch: str) -> States:
            if not uses_negative_prompt(branch):
                return cond
            return self._prompts.encode(self._prompts.tokenizer.encode(template))

        return self._draw(request, states, on_step)

    def _draw(self, request: Request, states: Callable[[str], States], on_step: OnStep | None) -> Result:
        clock = _Clock()
        images = [load_image(source) for source in request.images]
        drawn, final = self._sizes(request, images)
        latents = self._noise(request, drawn)
        schedule = self._schedule(request, latents)
        with clock.measure("prompt"):
            prompts = {branch: states(branch) for branch in self._branches(request, len(schedule))}
        with clock.measure("references"):
            references = [self._encode_image(image, request) for image in images]
        with clock.measure("denoising"):
            conditions = Conditions(prompts=prompts, references=references)
            facts = self.bundle.manifest.transformer
            denoiser = Denoiser(self.sessions, self.backend, facts, request, conditions, schedule, latents)
            latents, steps = denoiser.run(on_step)
        with clock.measure("decoding"):
            pictures = self._decode(latents, final) if len(steps) == len(schedule) else []
        return Result(images=pictures, latents=latents, steps=steps, timings=clock.seconds, request=request)

    def chat(
        self,
        prompt: str,
        images: Sequence[ImageSource] = (),
        *,
        on_token: OnToken | None = None,
        **settings: Unpack[ChatSettings],
    ) -> ChatResult:
        """One question, answered in words or with a picture. See `Chat.ask`, and `ChatSettings` for the settings."""
        return self.start_chat().ask(prompt, images, on_token=on_token, **settings)

    def chat_batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[ImageSource]] = (),
        **settings: Unpack[ChatSettings],
    ) -> list[ChatResult]:
        """Several questions answered together, each as `chat` answers it alone. images: each question's, or none at all."""
        return ask_together(self._language_model, self._prompts.tokenizer, self, prompts, images, **settings)

    def start_chat(self) -> Chat:
        """A new conversation. Raises BundleError where the bundle can only draw, at the first turn."""
        return Chat(self._language_model, self._prompts.tokenizer, self)

    def reflect(
        self, request: Request, rounds: int = 2, on_step: OnStep | None = None, on_round: OnRound | None = None
    ) -> Reflection:
        """Draw, then criticise and correct the picture up to `rounds` times, and keep the best. See `reflection.reflect`."""
        return reflect(self, self._language_model.chat_facts.reflection, request, rounds, on_step, on_round)

    def encode_prompt(self, text: str, images: Sequence[ImageSource] = ()) -> States:
        """The language model's hidden states of a prompt: (T, Dt) float32.

        Without images in the drawing template; with them in the chat template, the image tokens left out.
        """
        if not images:
            return self._prompts.encode(self._prompts.token_ids(text)).copy()
        model = self._language_model
        facts = model.chat_facts
        seen = [model.look(load_image(image)) for image in images]
        numbers = range(1, len(seen) + 1)
        ids = model.expand(question_ids(facts, self._prompts.tokenizer, facts.first_turn, text, numbers), seen)
        states: States = model.read(Context(), ids, seen)[0][np.array(ids) != facts.image_token_id]
        return states

    def close(self) -> None:
        """Free the engine's memory. The pipeline may be used again; its components are then opened anew."""
        self.sessions.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _multiple(self) -> int:
        """Pixels to a token's side: drawn sizes are multiples of it."""
        return self.bundle.manifest.vae.downscale * self.bundle.manifest.transformer.patch_size

    def _sizes(self, request: Request, images: list[Image.Image]) -> tuple[Size, Size]:
        """The size to draw at and the size to deliver. Raises RequestError for too many references or too small ones."""
        most = self.bundle.manifest.transformer.max_references
        if len(images) > most:
            raise RequestError(f"{len(images)} images were given; this model takes at most {most}")
        if len(images) == 1 and request.align_size:
            size = self._reference_size(images[0], request)
            return size, size
        own = self.bundle.manifest.vae.sample_px
        final = Size(request.width_px or own, request.height_px or own)
        return output_size(final.width_px, final.height_px, self._multiple, request.max_pixels), final

    def _reference_size(self, image: Image.Image, request: Request) -> Size:
        return reference_size(image.width, image.height, self._multiple, request.max_pixels, request.max_input_side_px)

    def _noise(self, request: Request, size: Size) -> NDArray[np.float32]:
        downscale = self.bundle.manifest.vae.downscale
        channels = self.bundle.manifest.transformer.latent_channels
        shape = (request.images_per_prompt, channels, size.height_px // downscale, size.width_px // downscale)
        if request.latents is None:
            return gaussian_noise(shape, request.seed)
        if request.latents.shape != shape:
            raise RequestError(f"latents has shape {request.latents.shape}; a drawing of this size needs {shape}")
        return np.asarray(request.latents, np.float32)

    def _schedule(self, request: Request, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        if request.timesteps is not None:
            return np.array(request.timesteps, np.float32)
        pixels = latents.shape[2] * latents.shape[3]
        return timesteps(request.steps, pixels, self.bundle.manifest.scheduler.dynamic_time_shift)

    def _branches(self, request: Request, steps: int) -> list[str]:
        """Every guidance branch that some step runs, so that a prompt nobody looks at is not encoded."""
        ran = [
            branch
            for index in range(steps)
            for branch in branches(
                index,
                steps,
                text_guidance=request.text_guidance,
                image_guidance=request.image_guidance,
                cfg_range=request.cfg_range,
                has_images=bool(request.images),
            )
        ]
        return list(dict.fromkeys(ran))

    def _prompt_states(self, request: Request, branch: str) -> NDArray[np.float32]:
        text = request.negative_prompt if uses_negative_prompt(branch) else request.prompt
        return self._prompts.encode(self._prompts.token_ids(text, request.max_prompt_tokens))

    def _encode_image(self, image: Image.Image, request: Request) -> NDArray[np.float32]:
        """A reference's latents in the transformer's scaled space, (1, C, h, w): the mode of the VAE's distribution."""
        pixels = to_pixels(image, self._reference_size(image, request))
        facts = self.bundle.manifest.vae
        mean = self.backend.to_host(self.sessions.run("vae_encoder", {"pixels": pixels})["mean"])
        scaled: NDArray[np.float32] = (mean - np.float32(facts.shift_factor)) * np.float32(facts.scaling_factor)
        return scaled

    def _decode(self, latents: NDArray[np.float32], size: Size) -> list[Image.Image]:
        facts = self.bundle.manifest.vae
        unscaled = latents / np.float32(facts.scaling_factor) + np.float32(facts.shift_factor)
        pixels = self.backend.to_host(self.sessions.run("vae_decoder", {"latents": unscaled})["pixels"])
        if not np.isfinite(pixels).all():
            raise BackendError(f"the decoded picture isn't finite in {self.backend.precision}: try precision fp32")
        return to_images(resize_bilinear(pixels, size.height_px, size.width_px))


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started
