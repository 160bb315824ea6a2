"""Conversations in ComfyUI: answers are the pipeline's own, and a chain of nodes is one conversation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt import ChatSettings, Pipeline, Request, Turn
from tests.comfyui.prompts import (
    CIRCLE,
    STEPS,
    answer_options,
    bundle,
    chat,
    draw_and_save,
    pixels,
    save,
    saved_pixels,
    show,
)
from tests.comfyui.running import Comfy, Prompt

QUESTION, NEXT = "what colour is the background?", "what colour is the circle?"
SETTINGS = ChatSettings(
    request=Request(prompt="", steps=STEPS, text_guidance=2.5, image_guidance=1.5, seed=7), max_new_tokens=64, seed=7
)


def asked(prompt: str, *, load: dict[str, Any] | None = None, **inputs: Any) -> Prompt:
    """A question, with its text shown and its picture saved."""
    return {
        "load": load or bundle(),
        "ask": chat(prompt, **inputs),
        "text": show("ask", 0),
        "save": save("answer", "ask", 1),
        "reason": show("ask", 3),
    }


def text_of(run: Any, node: str = "text") -> str:
    """The text that a node shows."""
    (text,) = run.outputs[node]["text"]
    return text


def test_answer_in_words_equals_the_pipelines_own(comfy: Comfy, nano: Pipeline) -> None:
    drawn = nano.generate(Request(prompt=CIRCLE, steps=STEPS, text_guidance=2.5, image_guidance=1.5, seed=7)).images[0]
    run = comfy.run({**draw_and_save(steps=STEPS), **asked(QUESTION, image_1=["draw", 0])})
    expected = nano.chat(QUESTION, [drawn], SETTINGS)
    assert text_of(run) == expected.text != ""
    assert text_of(run, "reason") == "stop"


def test_answer_in_words_keeps_the_nodes_that_want_a_picture_from_running(comfy: Comfy, saved: Path) -> None:
    run = comfy.run(asked("a small blue star on a white background", may_draw=False))
    assert not saved_pixels(saved, "answer") and "save" not in run.outputs
    assert run.of("execution_success")


def test_answer_with_a_picture_equals_the_pipelines_own(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    run = comfy.run(asked("a small blue star on a white background"))
    expected = nano.chat("a small blue star on a white background", settings=SETTINGS)
    (drawn,) = saved_pixels(saved, "answer")
    assert np.array_equal(drawn, pixels(expected.images[0]))
    assert text_of(run) == ""
    assert run.progress_of("ask") == [(step, STEPS) for step in range(1, STEPS + 1)] and len(run.previews_of("ask")) == STEPS


def test_chained_nodes_are_one_conversation(comfy: Comfy, nano: Pipeline) -> None:
    """The second question is about the picture that the first answer drew."""
    prompt = {
        **asked("a large green circle on a white background"),
        "next": chat(NEXT, conversation=["ask", 2]),
        "next text": show("next", 0),
        "last": chat(QUESTION, conversation=["next", 2]),
        "last text": show("last", 0),
    }
    run = comfy.run(prompt)
    talk = nano.start_chat()
    talk.ask("a large green circle on a white background", settings=SETTINGS)
    assert text_of(run, "next text") == talk.ask(NEXT, settings=SETTINGS).text != ""
    assert text_of(run, "last text") == talk.ask(QUESTION, settings=SETTINGS).text != ""


def test_conversation_with_another_bundle_is_tokenized_anew(comfy: Comfy) -> None:
    """Token ids belong to a bundle's own tokenizer."""
    sockets = comfy.module("sockets")
    history = sockets.History(turns=(Turn(prompt="hello", answer="hi", token_ids=(1, 2)),), digest="one")
    assert history.turns_for("one")[0].token_ids == (1, 2)
    other = history.turns_for("two")[0]
    assert other.token_ids == () and (other.prompt, other.answer) == ("hello", "hi")


def test_answer_options_reach_the_answer(comfy: Comfy, nano: Pipeline) -> None:
    prompt = {
        **asked("a small blue star on a white background", may_draw=False, max_new_tokens=8, answer_options=["options", 0]),
        "options": answer_options(temperature=5.0, top_k=50, top_p=0.9, repetition_penalty=1.2, stop="zebra\ngiraffe"),
    }
    run = comfy.run(prompt)
    options = {"temperature": 5.0, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.2, "stop": ("zebra", "giraffe")}
    expected = nano.chat(
        "a small blue star on a white background", settings=SETTINGS, may_draw=False, max_new_tokens=8, **options
    )
    assert text_of(run) == expected.text
    assert text_of(run, "reason") == expected.finish_reason


@pytest.mark.parametrize(("options", "message"), [({"top_p": 0.0}, "top_p"), ({"temperature": -0.5}, "temperature")])
def test_answer_option_out_of_range_is_refused_in_one_line(comfy: Comfy, options: dict[str, float], message: str) -> None:
    prompt = {**asked(QUESTION, answer_options=["options", 0]), "options": answer_options(**options)}
    error = comfy.run(prompt).error
    assert message in error and len(error.strip().splitlines()) == 1


def test_interrupt_ends_an_answer_in_words(comfy: Comfy, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, pieces = comfy.module("progress").Watch, list[str]()
    own = watch.on_token

    def on_token(self: Any, piece: str) -> None:
        pieces.append(piece)
        comfy.interrupt()
        own(self, piece)

    monkeypatch.setattr(watch, "on_token", on_token)
    run = comfy.run(asked("a small blue star on a white background", may_draw=False))
    assert run.is_interrupted and len(pieces) == 1


def test_bundle_without_a_chat_says_so(comfy: Comfy, nano: Pipeline, tmp_path: Path) -> None:
    folder = bundle_without_chat(tmp_path, nano)
    error = comfy.run(asked(QUESTION, load=bundle(folder=str(folder)))).error
    assert "only draw" in error or "chat" in error


def bundle_without_chat(folder: Path, nano: Pipeline) -> Path:
    """nano as a bundle that can only draw."""
    copy = folder / "bundle"
    shutil.copytree(nano.bundle.path, copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["chat"] = None
    (copy / "bundle.json").write_text(json.dumps(manifest))
    return copy
