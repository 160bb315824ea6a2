"""The inputs that several nodes share, and the requests that are made of them.

Defaults, ranges and tooltips are those of `Request`. An input is named as the field it becomes; ComfyUI's own names, `width`,
`height` and `batch_size`, stand for `width_px`, `height_px` and `images_per_prompt`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from comfy_api.latest import io
from numpy.typing import NDArray

from omnigen2_rt import Request
from omnigen2_rt.runtime.request import LARGEST_SIZE_PX, MAX_GUIDANCE, MAX_STEPS

from .images import joined
from .sockets import DRAWING_OPTIONS

MOST_SEED = 2**64 - 1
IMAGE_INPUTS = tuple(f"image_{number}" for number in range(1, 6))
DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Request)}

_OWN_NAMES = ("prompt", "negative_prompt", "steps", "text_guidance", "image_guidance", "seed")
_SIZE = "0: the model's own size, or with exactly one input image that image's size."


def field_docs(kind: type) -> dict[str, str]:
    """A sentence or more about each field of a dataclass, from its docstring: `name: text` or `name, name: text`."""
    docs: dict[str, str] = {}
    for names, text in re.findall(r"^(\w+(?:, \w+)*): ((?:.|\n +)+)", inspect.getdoc(kind) or "", flags=re.MULTILINE):
        words = " ".join(text.replace("`", "").split())
        docs |= dict.fromkeys(names.split(", "), words[:1].upper() + words[1:])
    return docs


TOOLTIPS = field_docs(Request)


def drawing_inputs(*, with_batch: bool = True) -> list[io.Input]:
    """The widgets of a drawing, in the order in which they are shown."""
    batch = _whole("batch_size", "images_per_prompt", 1, 1_000)
    return [
        io.String.Input("negative_prompt", multiline=True, default="", tooltip=TOOLTIPS.get("negative_prompt")),
        io.Int.Input("width", default=0, min=0, max=LARGEST_SIZE_PX, step=8, tooltip=f"The picture's width. {_SIZE}"),
        io.Int.Input("height", default=0, min=0, max=LARGEST_SIZE_PX, step=8, tooltip=f"The picture's height. {_SIZE}"),
        _whole("steps", "steps", 1, MAX_STEPS),
        _guidance("text_guidance"),
        _guidance("image_guidance"),
        *([batch] if with_batch else []),
        io.Int.Input(
            "seed", default=DEFAULTS["seed"], min=0, max=MOST_SEED, control_after_generate=True, tooltip=TOOLTIPS.get("seed")
        ),
    ]


def prompt_input(tooltip: str) -> io.Input:
    """The text that says what to do."""
    return io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip=tooltip)


def image_inputs() -> list[io.Input]:
    """The sockets of input images."""
    tooltip = "An input image. A batch counts as several; OmniGen2 takes up to five in all."
    return [io.Image.Input(name, optional=True, tooltip=tooltip) for name in IMAGE_INPUTS]


def options_input() -> io.Input:
    """The socket for the parameters that are seldom changed."""
    return DRAWING_OPTIONS.Input("drawing_options", optional=True, tooltip="From the node OmniGen2 Drawing Options.")


def pictures_in(inputs: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
    """The input images of a node, in the order of its sockets."""
    return joined((name, inputs.get(name)) for name in IMAGE_INPUTS)


def request_of(inputs: Mapping[str, Any], **fields: Any) -> Request:
    """The request of a node's inputs. fields: those that are known otherwise. Raises RequestError."""
    return Request(
        **{
            **(inputs.get("drawing_options") or {}),
            **{name: inputs[name] for name in _OWN_NAMES},
            "width_px": inputs["width"] or None,
            "height_px": inputs["height"] or None,
            "images_per_prompt": inputs.get("batch_size", DEFAULTS["images_per_prompt"]),
            **fields,
        }
    )


def _whole(name: str, field: str, least: int, most: int) -> io.Input:
    return io.Int.Input(name, default=DEFAULTS[field], min=least, max=most, tooltip=TOOLTIPS.get(field))


def _guidance(name: str) -> io.Input:
    tooltip = TOOLTIPS.get(name)
    return io.Float.Input(name, default=DEFAULTS[name], min=0.0, max=MAX_GUIDANCE, step=0.1, round=0.001, tooltip=tooltip)
