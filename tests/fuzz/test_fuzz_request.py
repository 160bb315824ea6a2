"""Requests of random values, most of them wrong: each is taken or refused in one line, quickly."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.request import Request
from omnigen2_rt.runtime.step_caches import TaylorSeer, TeaCache

CASES = 2_000
FIELDS = [field.name for field in dataclasses.fields(Request)]


class Loud(Sequence[Any]):
    """Raises from each of its methods."""

    def __len__(self) -> int:
        raise MemoryError

    def __getitem__(self, index: Any) -> Any:
        raise RecursionError("item")

    def __array__(self, *words: Any, **settings: Any) -> Any:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise AttributeError("repr")


class Endless(Sequence[Any]):
    """Holds a value without end."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return self._value


class NoPath:
    """A path that can't say which."""

    def __fspath__(self) -> str:
        raise OSError("no path")


class Word(str):
    """Text with methods of its own."""

    def encode(self, *words: Any, **settings: Any) -> bytes:
        raise LookupError("encode")

    def __hash__(self) -> int:
        raise TypeError("hash")


def _loop() -> list[Any]:
    loop: list[Any] = [1]
    loop += [loop, loop]
    return loop


def _broken(policy: TeaCache | TaylorSeer, field: str, value: object) -> object:
    object.__setattr__(policy, field, value)
    return policy


ODD: list[Callable[[random.Random], Any]] = [
    lambda r: None,
    lambda r: r.choice([True, False, np.bool_(True)]),
    lambda r: r.randrange(-3, 300),
    lambda r: r.choice([1, -1]) * (1 << r.randrange(20_000)) + r.randrange(3),
    lambda r: r.choice([0.0, -0.0, 0.5, 1.0, 1e300, -1e300, 5e-324, float("nan"), float("inf"), r.random()]),
    lambda r: r.choice([Fraction(1, 3), Fraction(10**400), Decimal("1e9"), 1j, b"bytes", bytearray(3), memoryview(b"abc")]),
    lambda r: r.choice([np.int8(3), np.uint64(2**64 - 1), np.float16(2), np.longdouble("1e4000"), np.complex64(1), np.str_("a")]),
    lambda r: np.full(tuple(r.randrange(3) for _ in range(r.randrange(5))), r.choice([0, 0.25, np.nan, 1e300])),
    lambda r: np.zeros((1, 4, 2, 2), r.choice([np.float16, np.float64, np.float32, np.uint8, object, "U3", "M8[s]", "i4,f4"])),
    lambda r: np.broadcast_to(np.float32(0), tuple(r.choice([1, 10**3, 10**4]) for _ in range(r.randrange(1, 5)))),
    lambda r: np.broadcast_to(np.uint8(0), (10**6, 10**6, 3)),
    lambda r: r.choice([[], (), {}, set(), range(3), range(10**18), "", "euler", "dpmsolver++", "a cat", "\ud800", "a\0b"]),
    lambda r: "x" * r.choice([10, 10**6, 10**6 + 1]),
    lambda r: sorted(r.random() for _ in range(r.randrange(6))),
    lambda r: [r.choice([0, 0.5, "x", None, 10**400, np.nan]) for _ in range(r.randrange(4))],
    lambda r: r.choice([Loud(), Endless(0.5), Endless("a.png"), Endless(None), NoPath(), Word("a cat"), Word("euler"), _loop()]),
    lambda r: r.choice([Path("a.png"), Image.new("RGB", (2, 2)), [Image.new("L", (2, 2)), "a.png"], [NoPath()], ["a"] * 5000]),
    lambda r: r.choice([TeaCache(), TaylorSeer(order=r.randrange(9)), TeaCache, object(), lambda: 3, Request]),
    lambda r: _broken(TeaCache(), "threshold", r.choice(["x", None, -1, 10**400, Loud(), np.nan])),
    lambda r: _broken(TaylorSeer(), r.choice(["order", "interval"]), r.choice(["x", 10**5000, 0.5, -1, Endless(1)])),
]


RIGHT: dict[str, list[Any]] = {
    "prompt": ["", "a cat", np.str_("a dog")],
    "negative_prompt": ["", "一只猫"],
    "images": [(), "a.png", [Path("a.png")], Image.new("L", (2, 2)), np.zeros((2, 2), np.uint8)],
    "height_px": [None, 16, np.int16(64)],
    "width_px": [None, 16, 4096],
    "steps": [1, 50, 100_000],
    "text_guidance": [0, 1.0, np.float32(4)],
    "image_guidance": [0, 2.0, Fraction(3, 2)],
    "cfg_range": [(0, 1), [0.25, 0.5], np.array([0.0, 0.5])],
    "scheduler": ["euler", "dpmsolver++"],
    "timesteps": [None, [0.0, 0.5], np.array([0.1, 0.2], np.float16)],
    "images_per_prompt": [1, np.uint8(1)],
    "seed": [0, 2**64 - 1],
    "latents": [None, np.zeros((1, 4, 2, 2)), np.zeros((1, 4, 2, 2), np.float16)],
    "max_prompt_tokens": [1, 1024],
    "max_pixels": [256, 2**32],
    "max_input_side_px": [16, 65_535],
    "align_size": [None, True, np.bool_(False)],
    "cache": [None, TeaCache(threshold=1), TaylorSeer(order=0)],
}


def run_case(choice: random.Random) -> str:
    """The outcome of a random request: "taken", or the field that its refusal begins with. Fails for any other exception."""
    names = choice.sample(FIELDS, choice.choice([1, 1, 2, 4, len(FIELDS)]))
    right = choice.choice([0.0, 0.5, 0.9])
    values = {name: choice.choice(RIGHT[name]) if choice.random() < right else choice.choice(ODD)(choice) for name in names}
    try:
        Request(**{"prompt": "a cat", **values})
    except RequestError as error:
        message = str(error)
        assert message.isprintable() and 0 < len(message) <= 300, message
        return message.split("=")[0].split()[0].split("[")[0]
    return "taken"


@pytest.mark.filterwarnings("error")
def test_random_request_is_taken_or_refused_in_a_line(record_property: Callable[[str, object], None]) -> None:
    outcomes = Counter(run_case(random.Random(seed)) for seed in range(CASES))
    counts = ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
    record_property("fuzz", f"request: {CASES:,} cases: {counts}")
    assert outcomes["taken"] > CASES // 5 and len(outcomes) > len(FIELDS)
