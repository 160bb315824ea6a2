"""The nodes with the parameters that are seldom changed: of drawings, and of answers."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

from omnigen2_rt import ChatSettings, Request, RequestError, TaylorSeer, TeaCache
from omnigen2_rt.runtime.request import LARGEST_SIZE_PX, SMALLEST_SIZE_PX
from omnigen2_rt.runtime.schedulers import SCHEDULERS
from omnigen2_rt.runtime.step_caches import CACHES, CachePolicy

from .inputs import DEFAULTS, TOOLTIPS, field_docs
from .sockets import ANSWER_OPTIONS, DRAWING_OPTIONS

NO_CACHE = "none"
ANSWER_TOOLTIPS = field_docs(ChatSettings)
TEA_TOOLTIPS, TAYLOR_TOOLTIPS = field_docs(TeaCache), field_docs(TaylorSeer)


class DrawingOptions(io.ComfyNode):
    """Fields of `Request` beyond those of the nodes that draw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        first, last = DEFAULTS["cfg_range"]
        return io.Schema(
            node_id="OmniGen2RTDrawingOptions",
            display_name="OmniGen2 Drawing Options",
            category="OmniGen2",
            description="Parameters of a drawing that are seldom changed, for Generate, Chat and Reflect.",
            inputs=[
                _fraction("cfg_start", first, "Where guidance begins, as a fraction of the steps."),
                _fraction("cfg_end", last, "Where guidance ends. 0.6 leaves the last 40 % of the steps unguided: faster."),
                io.Combo.Input("scheduler", list(SCHEDULERS), default=DEFAULTS["scheduler"], tooltip=TOOLTIPS.get("scheduler")),
                io.Combo.Input(
                    "cache",
                    [NO_CACHE, *CACHES],
                    default=NO_CACHE,
                    tooltip="Skip part of the model's runs: faster, and a slightly different picture.",
                ),
                io.Float.Input(
                    "teacache_threshold",
                    default=TeaCache.threshold, min=0.0, max=1_000_000.0, step=0.01, round=0.0001,
                    tooltip=f"teacache only. {TEA_TOOLTIPS.get('threshold', '')}",
                ),  # fmt: skip
                _taylorseer("warmup_steps", 1, 100_000),
                _taylorseer("interval", 1, 100_000),
                _taylorseer("order", 0, 100),
                _limit("max_prompt_tokens", 1, 2**15),
                _limit("max_pixels", SMALLEST_SIZE_PX**2, 2**32),
                _limit("max_input_side_px", SMALLEST_SIZE_PX, LARGEST_SIZE_PX),
            ],
            outputs=[DRAWING_OPTIONS.Output(display_name="drawing_options")],
        )

    @classmethod
    def execute(cls, cfg_start: float, cfg_end: float, **inputs: Any) -> io.NodeOutput:
        """Check the options. Raises RequestError."""
        names = ("scheduler", "max_prompt_tokens", "max_pixels", "max_input_side_px")
        fields = {name: inputs[name] for name in names} | {"cfg_range": (cfg_start, cfg_end), "cache": _cache(inputs)}
        Request(prompt="", **fields)
        return io.NodeOutput(fields)


class AnswerOptions(io.ComfyNode):
    """Fields of `ChatSettings` beyond those of Chat. What is left at its default is the model's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="OmniGen2RTAnswerOptions",
            display_name="OmniGen2 Answer Options",
            category="OmniGen2",
            description="How the words of an answer are chosen, for Chat.",
            inputs=[
                _own("temperature", io.Float.Input, -1.0, max=100.0, step=0.05, round=0.001),
                _own("top_p", io.Float.Input, -1.0, max=1.0, step=0.05, round=0.001),
                _own("top_k", io.Int.Input, -1, max=2**20),
                _own("repetition_penalty", io.Float.Input, -1.0, max=100.0, step=0.05, round=0.001),
                io.String.Input("stop", multiline=True, default="", tooltip="Texts that end the answer, one a line."),
            ],
            outputs=[ANSWER_OPTIONS.Output(display_name="answer_options")],
        )

    @classmethod
    def execute(cls, stop: str, **inputs: float) -> io.NodeOutput:
        """Check the options. Raises RequestError."""
        chosen = {name: value for name, value in inputs.items() if value != -1}
        fields: dict[str, Any] = {**chosen, "stop": tuple(line for line in stop.splitlines() if line)}
        ChatSettings(**fields)
        return io.NodeOutput(fields)


def _cache(inputs: dict[str, Any]) -> CachePolicy | None:
    """The cache policy. Each has its own inputs: `teacache_threshold` is the threshold of TeaCache. Raises RequestError."""
    name = inputs["cache"]
    if name == NO_CACHE:
        return None
    if name not in CACHES:
        raise RequestError(f"cache {name!r} is unknown; choose {NO_CACHE}, {' or '.join(CACHES)}")
    fields = {field.name: inputs[f"{name}_{field.name}"] for field in dataclasses.fields(CACHES[name])}
    return CACHES[name](**fields)


def _fraction(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.05, round=0.001, tooltip=tooltip)


def _taylorseer(field: str, least: int, most: int) -> io.Input:
    tooltip = f"taylorseer only. {TAYLOR_TOOLTIPS.get(field, '')}"
    return io.Int.Input(f"taylorseer_{field}", default=getattr(TaylorSeer, field), min=least, max=most, tooltip=tooltip)


def _limit(field: str, least: int, most: int) -> io.Input:
    return io.Int.Input(field, default=DEFAULTS[field], min=least, max=most, tooltip=TOOLTIPS.get(field))


def _own(field: str, kind: Any, default: float, **limits: float) -> io.Input:
    tooltip = f"{ANSWER_TOOLTIPS.get(field, '')} -1: the model's own."
    return kind(field, default=default, min=default, tooltip=tooltip, **limits)
