"""A drawing's parameters (`Request`) and what comes of it (`Step`, `Result`).

Every default, and every rule that needs no model, stands here and nowhere else. What depends on the bundle (how many
references it takes, the shape of its latents) is checked by the pipeline, which knows the bundle; this module does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .checks import check_integer, check_number, check_numbers, check_text, reporting
from .errors import RequestError, shown
from .images.loading import ImageSource, image_sources
from .manifest import MergedLora
from .schedulers import SCHEDULERS
from .step_caches import CACHES, CachePolicy

SMALLEST_SIZE_PX = 16
LARGEST_SIZE_PX = 65_535
MAX_DELIVERED_PIXELS = 2**28
"""The largest area of all pictures of a drawing together: a gigabyte of memory."""
MAX_STEPS = 100_000
MAX_GUIDANCE = 1_000.0
_MAX_LATENTS = 2**26  # values: 268 MB; OmniGen2 takes as many for MAX_DELIVERED_PIXELS


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One drawing: what to draw, from which images, how large and how carefully.

    Compared by identity, because it may hold arrays; use `dataclasses.replace` to vary one.

    prompt: what to draw, or how to change the images; may be empty, and up to a million characters long.
    negative_prompt: what to steer away from; it only has an effect while `text_guidance` is above 1.
    images: the input images in the order the prompt speaks of them, each a path, a PIL image or a (H, W), (H, W, 3) or
        (H, W, 4) uint8 array; a single one need not be wrapped. Without images: text-to-image.
    height_px, width_px: the picture's size, 16 to 65,535 each; None is the model's own, 1024 for OmniGen2. It is drawn at
        the next lower multiple the model can draw, within `max_pixels`, and resized to this. All pictures of a drawing
        together have at most 2**28 pixels.
    steps: evaluations of the model along the way, 1 to 100,000; more are slower and finer.
    text_guidance: how strongly to follow the prompt, 0 to 1,000; up to 1 turns guidance off and needs one model run a
        step instead of two or three. 4 to 5 is usual.
    image_guidance: how strongly to follow the images, 0 to 1,000; above 1 it costs a third run. 1.2–2.0 suits editing,
        2.5–3.0 in-context generation. Without images it has no effect.
    cfg_range: the part of the steps that is guided, as fractions (first, last) of the schedule, both inclusive,
        0 <= first <= last <= 1. (0, 0.6) leaves the last 40 % unguided, which is faster.
    scheduler: "euler" or "dpmsolver++".
    timesteps: times to use instead of the scheduler's own, increasing, in [0, 1), 0 being noise; `steps` then has no
        effect.
    images_per_prompt: pictures drawn together from one prompt, 1 to 1,000.
    seed: where the noise comes from, 0 <= seed < 2**64. Like PyTorch's CPU generator, it uses the low 32 bits only.
    latents: (B, C, h, w) noise to start from instead of the seed's, B = images_per_prompt; any float type, kept as a
        float32 copy.
    max_prompt_tokens: prompts are cut on the right to this many tokens, template included; 1 to 32,768. `Result.cut_tokens`
        counts what was cut.
    max_pixels: the largest area, in pixels, at which a picture is drawn and at which an input image is read; 256 to 2**32.
        Larger ones are scaled down, keeping their shape.
    max_input_side_px: the longest side at which an input image is read; 16 to 65,535.
    align_size: with exactly one input image, whether the picture takes that image's size as read. None: unless height_px or
        width_px is given. True: also then; they are ignored.
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
    align_size: bool | None = None
    cache: CachePolicy | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            with reporting(field.name):  # stored in its normal form, which a frozen dataclass allows only this way
                object.__setattr__(self, field.name, _CHECKS[field.name](field.name, value))
        if self.latents is not None and self.latents.shape[0] != self.images_per_prompt:
            raise RequestError(f"latents has shape {self.latents.shape}, but images_per_prompt is {self.images_per_prompt}")
        if self.width_px is not None and self.height_px is not None:
            check_delivered(self.width_px, self.height_px, self.images_per_prompt)


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


def asks_to_stop(answer: object) -> bool:
    """Whether a callback returned False, Python's or numpy's; None and 0 go on."""
    return type(answer) in (bool, np.bool_) and not answer


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A finished drawing.

    images: a PIL RGB image for each of `images_per_prompt`; none if the drawing was stopped.
    latents: (B, C, h, w) float32 after the last step, in the model's scaled space.
    steps: every step that was taken.
    timings: seconds by stage: "prompt", "references", "denoising", "decoding".
    request: the drawing's parameters.
    cut_tokens: by field, "prompt" or "negative_prompt", how many tokens lay beyond `max_prompt_tokens` and were not read;
        empty if all were.
    loras: the LoRAs that are merged into the bundle that drew it.
    """

    images: list[Image.Image]
    latents: NDArray[np.float32]
    steps: tuple[Step, ...]
    timings: dict[str, float]
    request: Request
    cut_tokens: dict[str, int] = dataclasses.field(default_factory=dict)
    loras: tuple[MergedLora, ...] = ()


def check_delivered(width_px: int, height_px: int, count: int) -> None:
    """Raises RequestError for pictures that are too large to be delivered together."""
    if (pixels := width_px * height_px * count) > MAX_DELIVERED_PIXELS:
        what = "a picture" if count == 1 else f"{count} pictures"
        raise RequestError(
            f"{what} of {width_px}×{height_px} px would hold {pixels} pixels; a drawing holds at most {MAX_DELIVERED_PIXELS}"
        )


def _whole(least: int, noun: str, most: int) -> Callable[[str, object], int]:
    return lambda name, value: check_integer(name, value, least, noun, most)


def _scale(name: str, value: object) -> float:
    number = check_number(name, value)
    if number < 0:
        raise RequestError(f"{name}={shown(value)} is below the smallest scale, 0 (1 turns guidance off)")
    if number > MAX_GUIDANCE:
        raise RequestError(f"{name}={shown(value)} is above the largest scale, {MAX_GUIDANCE:g} (4 to 5 is usual)")
    return number


def _cfg_range(name: str, values: object) -> tuple[float, float]:
    numbers = check_numbers(name, values, 2)
    if len(numbers) != 2:
        raise RequestError(f"cfg_range={numbers} needs two numbers, (first, last)")
    first, last = numbers
    if not 0 <= first <= last <= 1:
        raise RequestError(f"cfg_range=({first}, {last}) must satisfy 0 <= first <= last <= 1")
    return first, last


def _timesteps(name: str, values: object) -> tuple[float, ...]:
    """Checked in float32, which the model computes in: 0.99999999 is 1 there."""
    numbers = check_numbers(name, values, MAX_STEPS)
    if not numbers:
        raise RequestError("timesteps is empty; give at least one, or None for the scheduler's own")
    with np.errstate(all="ignore"):  # what overflows becomes infinite and is refused below
        rounded = np.asarray(numbers, np.float32)
        is_increasing = bool(np.all(np.diff(rounded) > 0))
    if rounded[0] < 0 or rounded[-1] >= 1 or not is_increasing:
        raise RequestError("timesteps must increase from step to step and lie in [0, 1), 0 being noise (in float32)")
    return numbers


def _latents(name: str, values: object) -> NDArray[np.float32]:
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        kind = f"{values.dtype} array" if isinstance(values, np.ndarray) else type(values).__name__
        raise RequestError(f"latents must be a floating-point numpy array, not {kind}")
    if values.ndim != 4:
        raise RequestError(f"latents has shape {values.shape}; it needs 4 axes, (B, C, h, w)")
    if values.size > _MAX_LATENTS:
        raise RequestError(f"latents has shape {values.shape}; at most {_MAX_LATENTS} values are allowed")
    with np.errstate(all="ignore"):  # what overflows becomes infinite and is refused below
        copy = np.array(values, np.float32, order="C")
    if not np.isfinite(copy).all():
        raise RequestError("latents holds NaN or infinite values")
    copy.setflags(write=False)
    return copy


def _scheduler(name: str, value: object) -> str:
    if not isinstance(value, str) or str.__str__(value) not in SCHEDULERS:
        raise RequestError(f"scheduler={shown(value)} is unknown; choose one of {', '.join(map(repr, SCHEDULERS))}")
    return str.__str__(value)


def _align_size(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"align_size={shown(value)} is not True or False")
    return bool(value)


_POLICIES = tuple(CACHES.values())


def _cache(name: str, value: object) -> CachePolicy:
    if not isinstance(value, _POLICIES):
        policies = " or ".join(f"{policy.__name__}()" for policy in CACHES.values())
        raise RequestError(f"cache={shown(value)} is not a cache policy; pass {policies}, or None")
    dataclasses.replace(value)  # checks its fields again: a frozen value can be changed all the same
    return value


_side = _whole(SMALLEST_SIZE_PX, "the smallest size", LARGEST_SIZE_PX)
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "prompt": check_text,
    "negative_prompt": check_text,
    "images": image_sources,
    "height_px": _side,
    "width_px": _side,
    "steps": _whole(1, "the fewest steps", MAX_STEPS),
    "text_guidance": _scale,
    "image_guidance": _scale,
    "cfg_range": _cfg_range,
    "scheduler": _scheduler,
    "timesteps": _timesteps,
    "images_per_prompt": _whole(1, "the fewest images", 1_000),
    "seed": _whole(0, "the smallest seed", 2**64 - 1),
    "latents": _latents,
    "max_prompt_tokens": _whole(1, "the smallest limit", 2**15),
    "max_pixels": _whole(SMALLEST_SIZE_PX**2, "the smallest limit", 2**32),
    "max_input_side_px": _whole(SMALLEST_SIZE_PX, "the smallest limit", LARGEST_SIZE_PX),
    "align_size": _align_size,
    "cache": _cache,
}
"""By field: the value in its normal form, or RequestError."""
