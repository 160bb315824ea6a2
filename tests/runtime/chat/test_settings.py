"""Chat settings: values that are refused, and where the checkpoint's own count."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt import BundleError, ChatSettings, Request, RequestError
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
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 is out of range; it must be 0.01 to 100"),
        ({"repetition_penalty": 1e300}, "repetition_penalty=1e+300 is out of range; it must be 0.01 to 100"),
        ({"max_new_tokens": 2**63}, "max_new_tokens=9223372036854775808 is above the largest allowed"),
        ({"temperature": 10**400}, "is not a finite number"),
        ({"temperature": 1j}, "temperature=1j is not a number"),
        ({"top_k": 10**5000}, "top_k=(an integer of 16610 bits) is out of range"),
        ({"seed": 2**64}, "seed=18446744073709551616 is out of range; it must be 0 to 2**64 - 1"),
        ({"stop": ["a", "\ud800"]}, "stop[1] is not valid Unicode text"),
        ({"stop": ["a", 3]}, "stop[1] must be text (str), not int"),
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


def test_settings_are_kept_as_plain_numbers() -> None:
    """A fraction as temperature made an array of objects of the logits."""
    given: dict[str, Any] = {"temperature": Fraction(1, 2), "top_p": np.float64(0.5), "seed": np.uint64(2**64 - 1)}
    settings = ChatSettings(**given, max_new_tokens=np.int8(3))  # type: ignore[arg-type]
    assert [type(value) for value in (settings.temperature, settings.top_p, settings.seed, settings.max_new_tokens)] == [
        float, float, int, int,
    ]  # fmt: skip
    assert (settings.temperature, settings.seed) == (0.5, 2**64 - 1)


def test_bundle_with_a_parameter_out_of_range_is_named(bundles: dict[str, Path]) -> None:
    chat = Bundle.open(bundles["A"]).manifest.chat
    assert chat is not None
    with pytest.raises(BundleError, match="the bundle's own repetition_penalty=1e[+]300 is out of range"):
        ChatSettings().sampler(replace(chat, repetition_penalty=1e300))


@pytest.mark.parametrize("settings", [{}, 0, {"seed": 1}, "warm"], ids=repr)
def test_settings_of_another_type_are_refused(settings: Any) -> None:
    with pytest.raises(RequestError, match=f"settings must be ChatSettings or None, not {type(settings).__name__}"):
        ChatSettings.chosen(settings, {})


def test_settings_keep_no_list_of_the_callers() -> None:
    stop = ["a"]
    settings = ChatSettings(stop=stop)
    stop.append("")
    assert settings.stop == ("a",)
