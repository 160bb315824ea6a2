"""Checks of single values that a caller gives: texts, numbers, functions. Each returns the value in its normal form.

A value may be of any type, and its methods may raise anything. Knows no request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from numbers import Integral, Real
from typing import Any

import numpy as np

from .errors import OmniGen2Error, RequestError, shown

MAX_TEXT_CHARACTERS = 1_000_000
"""The longest text: a tokenizer reads it in seconds."""
_NO_NUMBERS = (bool, np.timedelta64)  # Python and numpy call them integers


def check_type(name: str, value: object, kind: type | tuple[type, ...], noun: str) -> None:
    """Raises RequestError for anything but a `kind`, which `noun` names."""
    with reporting(name):
        if not isinstance(value, kind):
            raise RequestError(f"{name} must be {noun}, not {type(value).__name__}")


def check_text(name: str, value: Any) -> str:
    """The value as a str. Raises RequestError for anything but valid Unicode text of at most a million characters."""
    check_type(name, value, str, "text (str)")
    text = str.__str__(value)  # a subclass may say otherwise
    if len(text) > MAX_TEXT_CHARACTERS:
        raise RequestError(f"{name} has {len(text)} characters; at most {MAX_TEXT_CHARACTERS} are read")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} is not valid Unicode text at character {error.start}") from error
    return text


def check_integer(name: str, value: object, least: int | None = None, noun: str = "", most: int | None = None) -> int:
    """The value as an int. Raises RequestError for anything but a whole number, one below `least`, which `noun` names, or one
    above `most`."""
    with reporting(name):
        if not isinstance(value, Integral) or isinstance(value, _NO_NUMBERS):
            raise RequestError(f"{name}={shown(value)} is not a whole number")
        number = int(value)
    if least is not None and number < least:
        raise RequestError(f"{name}={shown(number)} is below {noun}, {least}")
    if most is not None and number > most:
        raise RequestError(f"{name}={shown(number)} is above the largest allowed, {most}")
    return number


def check_number(name: str, value: object) -> float:
    """The value as a float. Raises RequestError for anything but a finite number."""
    with reporting(name):
        if not isinstance(value, Real) or isinstance(value, _NO_NUMBERS):
            raise RequestError(f"{name}={shown(value)} is not a number")
        try:
            number = float(value)
        except OverflowError:  # an integer or a fraction beyond float64
            number = math.inf
    if not math.isfinite(number):
        raise RequestError(f"{name}={shown(value)} is not a finite number")
    return number


def check_numbers(name: str, values: object, most: int) -> tuple[float, ...]:
    """The values as floats. Raises RequestError for anything but a sequence of at most `most` finite numbers."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise RequestError(f"{name}={shown(values)} is not a sequence of numbers")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise RequestError(f"{name} has shape {values.shape}; it needs one axis")
    numbers = tuple(check_number(f"{name}[{i}]", value) for i, value in enumerate(islice(values, most + 1)))
    if len(numbers) > most:
        raise RequestError(f"{name} holds more than {most} numbers, the most that are allowed")
    return numbers


def check_callback(name: str, callback: object) -> None:
    """Raises RequestError for anything but a function or None."""
    if callback is not None and not callable(callback):
        raise RequestError(f"{name}={shown(callback)} is not a function")


@contextmanager
def reporting(name: str) -> Iterator[None]:
    """Turns what the value's own methods raise into a RequestError that names it."""
    try:
        yield
    except OmniGen2Error:
        raise
    except Exception as error:  # the methods of a foreign object may raise anything
        raise RequestError(f"{name} can't be read: {shown(error)}") from error
