"""Small workflows in the form of ComfyUI's HTTP API, and the pictures that they save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.comfyui.running import Prompt

STEPS = 4
CIRCLE = "a large red circle on a blue background"
EDIT = "make the circle green"


def bundle(**inputs: Any) -> dict[str, Any]:
    """nano on one thread of a CPU."""
    own = {"bundle": "nano", "folder": "", "backend": "ort-cpu", "precision": "fp32", "memory_limit_gb": 0.0, "threads": 1}
    return {"class_type": "OmniGen2RTLoadBundle", "inputs": {**own, "keep_loaded": True, **inputs}}


def drawing(prompt: str = CIRCLE, **inputs: Any) -> dict[str, Any]:
    """A node that draws with the bundle of node "load"."""
    return {"class_type": "OmniGen2RTGenerate", "inputs": {**_drawing(prompt), "batch_size": 1, **inputs}}


def chat(prompt: str, **inputs: Any) -> dict[str, Any]:
    """A question to the bundle of node "load"."""
    return {"class_type": "OmniGen2RTChat", "inputs": {**_drawing(prompt), "may_draw": True, "max_new_tokens": 64, **inputs}}


def reflection(prompt: str, **inputs: Any) -> dict[str, Any]:
    """A reflection with the bundle of node "load"."""
    return {"class_type": "OmniGen2RTReflect", "inputs": {**_drawing(prompt), "rounds": 1, **inputs}}


def drawing_options(**inputs: Any) -> dict[str, Any]:
    """The options of a drawing, those of `Request` by default."""
    own = {
        "cfg_start": 0.0, "cfg_end": 1.0, "scheduler": "euler", "cache": "none", "teacache_threshold": 0.05,
        "taylorseer_warmup_steps": 5, "taylorseer_interval": 3, "taylorseer_order": 4,
        "max_prompt_tokens": 1024, "max_pixels": 1024 * 1024, "max_input_side_px": 1024,
    }  # fmt: skip
    return {"class_type": "OmniGen2RTDrawingOptions", "inputs": {**own, **inputs}}


def answer_options(**inputs: Any) -> dict[str, Any]:
    """The options of an answer, the model's own by default."""
    own = {"temperature": -1.0, "top_p": -1.0, "top_k": -1, "repetition_penalty": -1.0, "stop": ""}
    return {"class_type": "OmniGen2RTAnswerOptions", "inputs": {**own, **inputs}}


def save(name: str, node: str, output: int = 0) -> dict[str, Any]:
    """A node that saves the pictures of another."""
    return {"class_type": "SaveImage", "inputs": {"images": [node, output], "filename_prefix": name}}


def show(node: str, output: int) -> dict[str, Any]:
    """A node that shows the text of another."""
    return {"class_type": "PreviewAny", "inputs": {"source": [node, output]}}


def draw_and_save(load: dict[str, Any] | None = None, **inputs: Any) -> Prompt:
    """A drawing, saved."""
    return {"load": load or bundle(), "draw": drawing(**inputs), "save": save("drawn", "draw")}


def saved_pixels(folder: Path, name: str) -> list[NDArray[np.uint8]]:
    """The pictures that were saved under a name, in order."""
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob(f"{name}_*.png"))]


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A picture's pixels."""
    return np.asarray(image)


def _drawing(prompt: str) -> dict[str, Any]:
    return {
        "bundle": ["load", 0], "prompt": prompt, "negative_prompt": "", "width": 0, "height": 0, "steps": STEPS,
        "text_guidance": 2.5, "image_guidance": 1.5, "seed": 7,
    }  # fmt: skip
