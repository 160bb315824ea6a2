"""A drawing's parameters (`Request`) and what comes of it (`Step`, `Result`).

Every default, and every rule that needs no model, stands here and nowhere else. What depends on the bundle (how many
references it takes, the shape of its latents) is checked by the pipeline, which knows the bundle; this module does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import RequestError
from .images.loading import ImageSource, image_sources
from .schedulers import SCHEDULERS
from .step_caches import CACHES, CachePolicy

SMALLEST_SIZE_PX = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One drawing: what to draw, from which images, how large and how carefully.

    Compared by identity, because it may hold arrays; use `dataclasses.replace` to vary one.

    prompt: what to draw, or how to change the images; may be empty.
    negative_prompt: what to steer away from; it only has an effect while `text_guidance` is above 1.
    images: the input images in the order the prompt speaks of them, each a path, a PIL image or a (H, W), (H, W, 3) or
        (H, W, 4) uint8 array; a single one need not be wrapped. Without images: text-to-image.
    height_px, width_px: the picture's size, 16 or more each; None is the model's own, 1024 for OmniGen2. It is drawn at the
        next lower multiple the model can draw, within `max_pixels`, and resized to this.
    steps: evaluations of the model along the way, 1 or more; more are slower and finer.
    text_guidance: how strongly to follow the prompt, 0 or more; up to 1 turns guidance off and needs one model run a
        step instead of two or three. 4 to 5 is usual.
    image_guidance: how strongly to follow the images, 0 or more; above 1 it costs a third run. 1.2–2.0 suits editing,
        2.5–3.0 in-context generation. Without images it has no effect.
    cfg_range: the part of the steps that is guided, as fractions (first, last) of the schedule, both inclusive,
        0 <= first <= last <= 1. (0, 0.6) leaves the last 40 % unguided, which is faster.
    scheduler: "euler" or "dpmsolver++".
    timesteps: times to use instead of the scheduler's own, increasing, in [0, 1), 0 being noise; `steps` then has no
        effect.
    images_per_prompt: pictures drawn together from one prompt, 1 or more.
    seed: where the noise comes from, 0 <= seed < 2**63. Like PyTorch's CPU generator, it uses the low 32 bits only.
    latents: (B, C, h, w) noise to start from instead of the seed's, B = images_per_prompt; any float type, kept as a
        float32 copy.
    max_prompt_tokens: prompts are cut on the right to this many tokens, template included; 1 or more.
    max_pixels: the largest area, in pixels, at which a picture is drawn and at which an input image is read; 256 or
        more. Larger ones are scaled down, keeping their shape.
    max_input_side_px: the longest side at which an input image is read; 16 or more.
    align_size: with exactly one input image, give the picture that image's size as read and ignore height_px, width_px.
    cache: None, or a policy that skips part of the model's runs: `TeaCache()` or `TaylorSeer()`.

    Raises RequestError if a value has the wrong type or is out of range.
    """

    prompt: str
    negative_prompt: str = ""
    images: Sequence[ImageSource] = ()
    height_px: int | None = None
    width_px: int | None = None
    steps: int = 50
    text_guidance: float = 4.0
    image_guidance: float = 1.0
    cfg_range: tuple[float, float] = (0.0, 1.0)
    scheduler: str = "euler"
    timesteps: Sequence[float] | None = None
    images_per_prompt: int = 1
    seed: int = 0
    latents: NDArray[np.float32] | None = None
    max_prompt_tokens: int = 1024
    max_pixels: int = 1024 * 1024
    max_input_side_px: int = 1024
    align_size: bool = True
    cache: CachePolicy | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            check_text(name, getattr(self, name))
        for name, least, noun in _INTEGERS:
            self._keep(name, check_integer(name, getattr(self, name), least, noun))
        for name in ("height_px", "width_px"):
            if getattr(self, name) is not None:
                self._keep(name, check_integer(name, getattr(self, name), SMALLEST_SIZE_PX, "the smallest size"))
        for name in ("text_guidance", "image_guidance"):
            self._keep(name, _scale(name, getattr(self, name)))
        self._keep("images", image_sources("images", self.images))
        self._keep("cfg_range", _cfg_range(self.cfg_range))
        self._keep("timesteps", None if self.timesteps is None else _timesteps(self.timesteps))
        self._keep("latents", None if self.latents is None else _latents(self.latents, self.images_per_prompt))
        if self.seed >= 2**63:
            raise RequestError(f"seed={self.seed} is too large; the largest is 2**63 - 1")
        if not isinstance(self.scheduler, str) or self.scheduler not in SCHEDULERS:
            raise RequestError(f"scheduler={self.scheduler!r} is unknown; choose one of {_listed(SCHEDULERS)}")
        if not isinstance(self.align_size, bool):
            raise RequestError(f"align_size={self.align_size!r} is not True or False")
        if self.cache is not None and not isinstance(self.cache, tuple(CACHES.values())):
            policies = " or ".join(f"{policy.__name__}()" for policy in CACHES.values())
            raise RequestError(f"cache={self.cache!r} is not a cache policy; pass {policies}, or None")

    def _keep(self, name: str, value: object) -> None:
        """Stores a field in its normal form, which a frozen dataclass allows only this way."""
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One finished step, as `on_step` gets it.

    index: 0-based.
    timestep: the time at which the model was evaluated, 0 noise and 1 picture.
    latents: (B, C, h, w) float32 after the step, in the model's scaled space.
    estimate: (B, C, h, w) float32, the clean latents that the step predicts: x + (1 - t) v, where x are the latents before it, t
        its time and v the guided velocity. Good for previews.
    computed: for each guidance branch that took part ("cond", "ref", "uncond"): True if the transformer ran, False if
        a cache predicted its output.
    """

    index: int
    timestep: float
    latents: NDArray[np.float32]
    estimate: NDArray[np.float32]
    computed: dict[str, bool]


OnStep = Callable[[Step], object]
"""Called after each step; returning False stops the drawing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A finished drawing.

    images: a PIL RGB image for each of `images_per_prompt`; none if the drawing was stopped.
    latents: (B, C, h, w) float32 after the last step, in the model's scaled space.
    steps: every step that was taken.
    timings: seconds by stage: "prompt", "references", "denoising", "decoding".
    request: the drawing's parameters.
    """

    images: list[Image.Image]
    latents: NDArray[np.float32]
    steps: tuple[Step, ...]
    timings: dict[str, float]
    request: Request


# Field, least value, what that least value is.
_INTEGERS = (
    ("steps", 1, "the fewest steps"),
    ("images_per_prompt", 1, "the fewest images"),
    ("seed", 0, "the smallest seed"),
    ("max_prompt_tokens", 1, "the smallest limit"),
    ("max_pixels", SMALLEST_SIZE_PX**2, "the smallest limit"),
    ("max_input_side_px", SMALLEST_SIZE_PX, "the smallest limit"),
)


def check_text(name: str, value: object) -> None:
    """Raises RequestError for anything but valid Unicode text."""
    if not isinstance(value, str):
        raise RequestError(f"{name} must be text (str), not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} is not valid Unicode text at character {error.start}") from error


def check_integer(name: str, value: object, least: int | None = None, noun: str = "") -> int:
    """The value as an int. Raises RequestError for anything but a whole number, or one below `least`, which `noun` names."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise RequestError(f"{name}={value!r} is not a whole number")
    if least is not None and value < least:
        raise RequestError(f"{name}={value} is below {noun}, {least}")
    return int(value)


def check_number(name: str, value: object) -> float:
    """The value as a float. Raises RequestError for anything but a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise RequestError(f"{name}={value!r} is not a number")
    if not math.isfinite(value):
        raise RequestError(f"{name}={value} is not a finite number")
    return float(value)


def _scale(name: str, value: object) -> float:
    number = check_number(name, value)
    if number < 0:
        raise RequestError(f"{name}={value} is below the smallest scale, 0 (1 turns guidance off)")
    return number


def _numbers(name: str, values: object) -> tuple[float, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise RequestError(f"{name}={values!r} is not a sequence of numbers")
    return tuple(check_number(f"{name}[{i}]", value) for i, value in enumerate(values))


def _cfg_range(values: object) -> tuple[float, float]:
    numbers = _numbers("cfg_range", values)
    if len(numbers) != 2:
        raise RequestError(f"cfg_range={numbers} needs two numbers, (first, last)")
    first, last = numbers
    if not 0 <= first <= last <= 1:
        raise RequestError(f"cfg_range=({first}, {last}) must satisfy 0 <= first <= last <= 1")
    return first, last


def _timesteps(values: object) -> tuple[float, ...]:
    """Checked in float32, which the model computes in: 0.99999999 is 1 there."""
    numbers = _numbers("timesteps", values)
    rounded = np.asarray(numbers, np.float32)
    if not numbers:
        raise RequestError("timesteps is empty; give at least one, or None for the scheduler's own")
    if rounded[0] < 0 or rounded[-1] >= 1 or np.any(np.diff(rounded) <= 0):
        raise RequestError("timesteps must increase from step to step and lie in [0, 1), 0 being noise (in float32)")
    return numbers


def _latents(values: object, images_per_prompt: int) -> NDArray[np.float32]:
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        kind = f"{values.dtype} array" if isinstance(values, np.ndarray) else type(values).__name__
        raise RequestError(f"latents must be a floating-point numpy array, not {kind}")
    if values.ndim != 4:
        raise RequestError(f"latents has shape {values.shape}; it needs 4 axes, (B, C, h, w)")
    if values.shape[0] != images_per_prompt:
        raise RequestError(f"latents has shape {values.shape}, but images_per_prompt is {images_per_prompt}")
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
        copy = np.array(values, np.float32, order="C")
    if not np.isfinite(copy).all():
        raise RequestError("latents holds NaN or infinite values")
    copy.setflags(write=False)
    return copy


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(repr(name) for name in names)
