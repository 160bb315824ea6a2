"""Chat settings: values that are refused, and where the checkpoint's own count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt import ChatSettings, Request, RequestError
from omnigen2_rt.runtime.bundle import Bundle


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 is below the fewest, 1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5 is not a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens=True is not a whole number"),
        ({"temperature": -1.0}, "temperature=-1.0 is out of range; it must be 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan is not a finite number"),
        ({"temperature": "warm"}, "temperature='warm' is not a number"),
        ({"top_p": 0.0}, "top_p=0.0 is out of range"),
        ({"top_k": -1}, "top_k=-1 is out of range"),
        ({"top_k": 2.5}, "top_k=2.5 is not a whole number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"seed": "0"}, "seed='0' is not a whole number"),
        ({"seed": None}, "seed=None is not a whole number"),
        ({"stop": ["a", ""]}, "is not a list of texts, each of at least a character"),
        ({"stop": "word"}, "is not a list of texts, each of at least a character"),
        ({"stop": 3}, "is not a list of texts, each of at least a character"),
        ({"may_draw": 1}, "may_draw=1 is not True or False"),
        ({"request": "a cat"}, "request must be a Request, not str"),
    ],
)
def test_setting_that_is_not_allowed_is_refused(setting: dict[str, Any], message: str) -> None:
    for make in (lambda: ChatSettings(**setting), lambda: ChatSettings.chosen(None, setting)):
        with pytest.raises(RequestError, match=re.escape(message)):
            make()


def test_unknown_setting_names_those_there_are() -> None:
    with pytest.raises(RequestError, match="a chat has no setting 'max_tokens'; it has request, max_new_tokens"):
        ChatSettings().chosen(None, {"max_tokens": 5})


def test_changed_settings_leave_the_others_as_they_are() -> None:
    settings = ChatSettings.chosen(ChatSettings(request=Request(prompt=""), seed=3), {"max_new_tokens": 5})
    assert (settings.seed, settings.max_new_tokens, settings.may_draw) == (3, 5, True)
    assert settings.request is not None


def test_sampler_takes_the_checkpoints_own_parameters_where_none_are_set(bundles: dict[str, Path]) -> None:
    chat = Bundle.open(bundles["A"]).manifest.chat
    assert chat is not None and chat.repetition_penalty > 1
    logits = np.array([1.0, 0.99, 0.0], np.float32)
    assert ChatSettings().sampler(chat).sample(logits, [0]) == 1
    assert ChatSettings(repetition_penalty=1.0).sampler(chat).sample(logits, [0]) == 0


@pytest.mark.parametrize("settings", [{}, 0, {"seed": 1}, "warm"], ids=repr)
def test_settings_of_another_type_are_refused(settings: Any) -> None:
    with pytest.raises(RequestError, match=f"settings must be ChatSettings or None, not {type(settings).__name__}"):
        ChatSettings.chosen(settings, {})


def test_settings_keep_no_list_of_the_callers() -> None:
    stop = ["a"]
    settings = ChatSettings(stop=stop)
    stop.append("")
    assert settings.stop == ("a",)
