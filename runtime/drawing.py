"""A drawing that can be held between two steps.

`start_drawing` does what comes before the loop: it checks the request against the bundle, encodes prompts and input images, and
makes the noise. Drawings share the components and nothing else, so several can be stepped in turn on one thread, and each gives
the same as alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .autoencoder import decode_images, encode_image
from .checks import check_callback, check_type
from .components import Components
from .denoiser import Conditions, Denoiser
from .errors import BackendError, RequestError
from .guidance import Plan, plan_branches
from .images.loading import ImageSource, load_image
from .images.pixels import Size, output_size, reference_size, resize_lanczos
from .manifest import Manifest
from .noise import gaussian_noise
from .request import OnStep, Request, Result, Step, asks_to_stop, check_delivered
from .schedulers import SCHEDULERS, timesteps

Latents = NDArray[np.float32]
EncodeBranch = Callable[[str], NDArray[np.float32]]
"""The prompt's hidden states (T, Dt) float32 of a guidance branch."""


class Drawing:
    """One request on its way from noise to pictures. Made by `Pipeline.start`.

    One thread steps it at a time: another step meanwhile raises RequestError. It needs the pipeline's memory until it is finished
    or cancelled. A step that fails or is interrupted cancels it: a guidance branch may have moved on without the others.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        request: Request,
        schedule: NDArray[np.float32],
        latents: Latents,
        size: Size,
        clock: Clock,
        cut_tokens: Mapping[str, int],
    ) -> None:
        self._denoiser: Denoiser | None = denoiser
        self._components = denoiser.components
        self._scheduler = SCHEDULERS[request.scheduler](schedule)
        self._request = request
        self._schedule = schedule
        self._latents = latents
        self._size = size
        self._clock = clock
        self._cut_tokens = cut_tokens
        self._steps: list[Step] = []
        self._result: Result | None = None
        self._lock = Lock()

    @property
    def latents(self) -> Latents:
        """A copy of the latents (B, C, h, w) float32 after the last step; before the first, the noise."""
        return self._latents.copy()

    @property
    def total_steps(self) -> int:
        """The number of steps of the whole schedule."""
        return len(self._schedule)

    @property
    def done(self) -> bool:
        """Whether no step is left: all were taken, or the drawing was cancelled."""
        return self._denoiser is None

    def step(self) -> Step:
        """Take the next step.

        Raises RequestError if none is left or another thread takes one, BackendError if the engine fails or values aren't finite.
        """
        if not self._lock.acquire(blocking=False):
            raise RequestError("this drawing is taking a step already: let one thread step it")
        try:
            return self._next_step()
        finally:
            self._lock.release()

    def _next_step(self) -> Step:
        denoiser = self._denoiser  # another thread may cancel meanwhile
        if denoiser is None:
            raise RequestError("this drawing has no step left: start another")
        index, before = len(self._steps), self._latents
        timestep = self._schedule[index]
        try:
            # What overflows becomes infinite and is reported below.
            with self._clock.measure("denoising"), np.errstate(over="ignore", invalid="ignore"):
                velocity, computed = denoiser.velocity(index, float(timestep), before)
                estimate: Latents = before + (np.float32(1) - timestep) * velocity
                latents = self._scheduler.step(index, velocity, before)
            if not np.isfinite(latents).all():
                backend = self._components.backend
                raise BackendError(
                    f"step {index} gave values that are not finite in {backend.precision} on {backend.name}: "
                    "try precision fp32, or check the checkpoint"
                )
        except BaseException:
            self.cancel()
            raise
        self._latents = latents
        step = Step(index=index, timestep=float(timestep), latents=latents.copy(), estimate=estimate, computed=computed)
        self._steps.append(step)
        if len(self._steps) == len(self._schedule):
            self._denoiser = None  # its caches hold device memory
        return step

    def finish(self, on_step: OnStep | None = None) -> Result:
        """Take the steps that are left and decode. `on_step(step)` is called after each; if it returns False, drawing stops.

        A drawing that was stopped or cancelled before its last step has its latents and steps, and no pictures. Later calls
        return the same result. Raises RequestError where `on_step` is no function, and as `step`.
        """
        check_callback("on_step", on_step)
        while not self.done:
            step = self.step()
            if on_step is not None and asks_to_stop(on_step(step)):
                self.cancel()
        if self._result is None:
            pictures: list[Image.Image] = []
            if len(self._steps) == len(self._schedule):
                with self._clock.measure("decoding"), np.errstate(over="ignore", invalid="ignore"):
                    pictures = decode_images(self._components, self._latents, self._size)
            self._result = Result(
                images=pictures,
                latents=self._latents.copy(),
                steps=tuple(self._steps),
                timings=dict(self._clock.seconds),
                request=self._request,
                cut_tokens=dict(self._cut_tokens),
                loras=self._components.bundle.manifest.loras,
            )
        return self._result

    def cancel(self) -> None:
        """Give up the steps that are left, and free what they would have needed. After the last step it changes nothing."""
        self._denoiser = None


def start_drawing(
    components: Components, request: Request, encode_branch: EncodeBranch, cut_tokens: Mapping[str, int] | None = None
) -> Drawing:
    """Check a request against the bundle and do everything that comes before its first step.

    cut_tokens: the result's; `encode_branch` may still add to it. Raises RequestError where the request doesn't fit the bundle,
    BackendError where the engine fails.
    """
    check_type("request", request, Request, "a Request")
    manifest, clock = components.bundle.manifest, Clock()
    _check_count(manifest, len(request.images))
    images = [_load_reference(manifest, request, source) for source in request.images]
    size, final = picture_sizes(manifest, request, [Size(*image.size) for image in images])
    latents = starting_latents(manifest, request, size)
    schedule = _schedule(manifest, request, latents)
    if request.cache is not None:
        request.cache.check(components.most_blended)
    plan = _plan(request, len(schedule))
    with clock.measure("prompt"):
        branches = dict.fromkeys(branch for step in plan for branch in step)
        prompts = {branch: encode_branch(branch) for branch in branches}
    with clock.measure("references"):
        references = [encode_image(components, image, Size(*image.size)) for image in images]
    with clock.measure("denoising"):
        conditions = Conditions(prompts=prompts, references=references)
        denoiser = Denoiser(components, request, conditions, plan, latents)
    return Drawing(denoiser, request, schedule, latents, final, clock, cut_tokens or {})


def picture_sizes(manifest: Manifest, request: Request, images: Sequence[Size]) -> tuple[Size, Size]:
    """The size to draw at and the size to deliver. images: the input images' sizes.

    Raises RequestError for too many input images or too small ones.
    """
    _check_count(manifest, len(images))
    has_size = request.height_px is not None or request.width_px is not None
    aligns = not has_size if request.align_size is None else request.align_size
    if len(images) == 1 and aligns:
        size = input_size(manifest, request, images[0])
        check_delivered(*size, request.images_per_prompt)
        return size, size
    own = manifest.vae.sample_px
    final = Size(request.width_px or own, request.height_px or own)
    check_delivered(*final, request.images_per_prompt)
    return output_size(final.width_px, final.height_px, manifest.token_px, request.max_pixels), final


def starting_latents(manifest: Manifest, request: Request, size: Size) -> Latents:
    """The noise to start from, (B, C, h, w) float32: the request's own, or its seed's. Raises RequestError for another shape."""
    downscale = manifest.vae.downscale
    shape = (
        request.images_per_prompt,
        manifest.transformer.latent_channels,
        size.height_px // downscale,
        size.width_px // downscale,
    )
    if request.latents is None:
        return gaussian_noise(shape, request.seed)
    if request.latents.shape != shape:
        raise RequestError(f"latents has shape {request.latents.shape}; a drawing of this size needs {shape}")
    return np.asarray(request.latents, np.float32)


class Clock:
    """Seconds by stage, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the block's seconds to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def _check_count(manifest: Manifest, images: int) -> None:
    if images > manifest.transformer.max_references:
        raise RequestError(f"{images} images were given; this model takes at most {manifest.transformer.max_references}")


def _load_reference(manifest: Manifest, request: Request, source: ImageSource) -> Image.Image:
    """An input image at the size at which it is read: a photograph itself can take a hundred times the memory."""
    image = load_image(source)
    return resize_lanczos(image, input_size(manifest, request, Size(*image.size)))


def input_size(manifest: Manifest, request: Request, image: Size) -> Size:
    """The size at which a request's input image of a size is read. Raises RequestError for one that is too small."""
    limits = request.max_pixels, request.max_input_side_px
    return reference_size(*image, manifest.token_px, *limits)


def _schedule(manifest: Manifest, request: Request, latents: Latents) -> NDArray[np.float32]:
    if request.timesteps is not None:
        return np.array(request.timesteps, np.float32)
    return timesteps(request.steps, latents.shape[2] * latents.shape[3], manifest.scheduler.dynamic_time_shift)


def _plan(request: Request, steps: int) -> Plan:
    return plan_branches(
        steps,
        text_guidance=request.text_guidance,
        image_guidance=request.image_guidance,
        cfg_range=request.cfg_range,
        has_images=bool(request.images),
    )
