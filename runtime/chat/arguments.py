"""Sequences that callers give to a chat, checked: classes of their own may raise anything, or never end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from ..checks import check_text, reporting
from ..errors import RequestError

MAX_ITEMS = 2**20
"""The most items of a sequence: more tokens than any model reads."""


def check_sequence(name: str, values: object, items: str) -> tuple[Any, ...]:
    """The values as a tuple. Raises RequestError for a text and for anything else that is no sequence of `items`."""
    with reporting(name):
        if isinstance(values, str | bytes | bytearray) or not isinstance(values, Sequence | np.ndarray):
            raise RequestError(f"{name} must be a sequence of {items}, not {type(values).__name__}")
        listed = tuple(islice(values, MAX_ITEMS + 1))
    if len(listed) > MAX_ITEMS:
        raise RequestError(f"{name} holds more than {MAX_ITEMS} items, the most that are read")
    return listed


def check_texts(name: str, values: object) -> tuple[str, ...]:
    """The texts as a tuple. Raises RequestError for anything but a sequence of valid Unicode texts."""
    return tuple(check_text(f"{name}[{index}]", text) for index, text in enumerate(check_sequence(name, values, "texts")))
