"""Reflection with scripted answers: which pictures are drawn, when it stops, and which one is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import load
from omnigen2_rt.runtime.chat.reflection import Reflection, reflect
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.manifest import ReflectionPrompts
from omnigen2_rt.runtime.request import Request, Result

PROMPTS = ReflectionPrompts(critique="wrong? {prompt}", edit="fix {critique}", judge="grade {prompt}", content="Nothing")
REQUEST = Request(prompt="two birds")


class Script:
    """Draws empty pictures and gives the answers of a script in turn."""

    def __init__(self, *answers: str) -> None:
        self._answers: Iterator[str] = iter(answers)
        self.requests: list[Request] = []
        self.questions: list[str] = []

    def draw(self, request: Request) -> Result:
        self.requests.append(request)
        latents = np.zeros((1, 1, 2, 2), np.float32)
        return Result(images=[Image.new("RGB", (16, 16))], latents=latents, steps=(), timings={}, request=request)

    def ask(self, question: str, picture: Image.Image) -> str:
        self.questions.append(question)
        return next(self._answers)

    def reflect(self, rounds: int, on_round: Any = None, request: Request = REQUEST) -> Reflection:
        return reflect(request, rounds, PROMPTS, draw=self.draw, ask=self.ask, on_round=on_round)


def test_reflection_that_is_content_draws_once() -> None:
    script = Script("9", "Nothing.")
    reflection = script.reflect(rounds=2)
    assert len(script.requests) == 1 and reflection.best == 0
    assert script.questions == ["grade two birds", "wrong? two birds"]


def test_reflection_corrects_the_picture_with_the_edit_it_wrote() -> None:
    script = Script("3", "one bird", "add a bird", "8", "Nothing")
    reflection = script.reflect(rounds=2)
    assert [request.prompt for request in script.requests] == ["two birds", "add a bird"]
    assert list(script.requests[1].images) == reflection.rounds[0].result.images
    assert script.questions[2] == "fix one bird"
    assert (reflection.best, reflection.rounds[0].critique, reflection.rounds[0].edit) == (1, "one bird", "add a bird")


def test_reflection_that_makes_it_worse_stops_and_keeps_the_better_picture() -> None:
    script = Script("7", "too dark", "brighten", "4 of 10")
    reflection = script.reflect(rounds=5)
    assert len(script.requests) == 2
    assert reflection.result is reflection.rounds[0].result


def test_reflection_stops_when_rounds_are_used_up() -> None:
    script = Script("1", "a", "b", "2")
    assert len(script.reflect(rounds=1).rounds) == 2


@pytest.mark.parametrize("no", [False, np.False_])
def test_reflection_whose_caller_says_stop_ends_after_that_round(no: Any) -> None:
    script = Script("1", "a", "b")
    assert len(script.reflect(rounds=3, on_round=lambda done: no).rounds) == 1




def test_grade_is_looked_for_on_the_scale_of_the_question() -> None:
    """The first number of an answer was once its grade."""
    prompts = replace(PROMPTS, judge="grade {prompt} from 1 to 5")
    answers: Iterator[str] = iter(["On a scale from 1 to 5, I'd give it a 4.", "dark", "brighten", "9 out of 10", "Nothing"])
    script = Script()
    reflection = reflect(REQUEST, 1, prompts, draw=script.draw, ask=lambda question, picture: next(answers))
    assert [done.grade for done in reflection.rounds] == [4, None] and reflection.best == 0


def test_critique_that_holds_a_placeholder_keeps_it() -> None:
    """It was once filled with the request."""
    script = Script("3", "it says {prompt}", "fix", "8")
    script.reflect(rounds=1)
    assert script.questions[2] == "fix it says {prompt}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"request": "two birds"}, "request must be a Request, not str"),
        ({"rounds": 1.5}, "rounds=1.5 is not a whole number"),
        ({"rounds": 10**400}, r"rounds=.* is above the largest allowed, 1000"),
        ({"on_round": 3}, "on_round=3 is not a function"),
    ],
)
def test_reflection_with_a_wrong_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Script().reflect(**{"rounds": 1, **arguments})


def test_reflection_on_several_pictures_is_refused() -> None:
    with pytest.raises(RequestError, match="one picture at a time"):
        Script().reflect(rounds=1, request=Request(prompt="", images_per_prompt=2))
    with pytest.raises(RequestError, match="rounds=0 is below"):
        Script().reflect(rounds=0)


def test_reflection_of_a_real_bundle_holds_every_round(bundles: dict[str, Path]) -> None:
    with load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        reflection = pipeline.reflect(Request(prompt="a cat", width_px=64, height_px=64, steps=1), rounds=1)
    assert 1 <= len(reflection.rounds) <= 2
    assert reflection.result.images[0].size == (64, 64)
    assert all(len(done.result.images) == 1 for done in reflection.rounds)
