"""Reflection in ComfyUI: pictures and critiques are the pipeline's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from omnigen2_rt import Pipeline, Request
from tests.comfyui.prompts import bundle, pixels, reflection, save, saved_pixels, show
from tests.comfyui.running import Comfy, Prompt

PROMPT = "a small white star above a large purple square on a yellow background"
STEPS = 1  # it leaves something to correct


def reflected(**inputs: Any) -> Prompt:
    """A reflection with all its outputs."""
    return {
        "load": bundle(),
        "reflect": reflection(PROMPT, steps=STEPS, **inputs),
        "best": save("best", "reflect", 0),
        "all": save("all", "reflect", 1),
        "critiques": show("reflect", 2),
    }


def test_reflection_equals_the_pipelines_own(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    run = comfy.run(reflected())
    request = Request(prompt=PROMPT, steps=STEPS, text_guidance=2.5, image_guidance=1.5, seed=7)
    expected = nano.reflect(request, rounds=1)
    assert len(expected.rounds) == 2
    for drawn, judged in zip(saved_pixels(saved, "all"), expected.rounds, strict=True):
        assert np.array_equal(drawn, pixels(judged.result.images[0]))
    (best,) = saved_pixels(saved, "best")
    assert np.array_equal(best, pixels(expected.result.images[0]))
    (text,) = run.outputs["critiques"]["text"]
    lines = text.splitlines()
    assert len(lines) == 2
    for index, (line, judged) in enumerate(zip(lines, expected.rounds, strict=True)):
        assert line.startswith(f"picture {index + 1} (") and judged.critique in line and judged.edit in line
        assert (", the best)" in line) == (index == expected.best)


def test_reflection_reports_the_steps_of_all_its_drawings(comfy: Comfy) -> None:
    run = comfy.run(reflected())
    assert run.progress_of("reflect") == [(step, 2 * STEPS) for step in range(1, 2 * STEPS + 1)]


def test_interrupt_ends_a_critique(comfy: Comfy, saved: Path) -> None:
    """After the last step of the first drawing the model only answers questions, until the second begins."""

    def interrupt_after_the_first(event: Any, data: Any) -> None:
        if event == "progress" and data["value"] == STEPS:
            comfy.interrupt()

    run = comfy.run(reflected(), on_event=interrupt_after_the_first)
    assert run.is_interrupted and not saved_pixels(saved, "all")
    assert run.progress_of("reflect") == [(step, 2 * STEPS) for step in range(1, STEPS + 1)]
