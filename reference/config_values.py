"""Checks the values of a network's config: no number of a file becomes a network that can't exist or takes minutes to build."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, TypeGuard, get_args, get_origin, get_type_hints

Range = tuple[float, float]
ANY_COUNT: Range = (1, 2**24)
LAYERS: Range = (1, 1024)
POSITIVE: Range = (1e-30, 1e30)


def check_values(config: Any, ranges: Mapping[str, Range]) -> None:
    """Check each field of a frozen dataclass against its annotation and its range; lists become tuples.

    ranges: the smallest and largest value by field; by default ANY_COUNT for integers, POSITIVE for floats.
    Raises ValueError, naming the field.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        if value is None and NoneType in get_args(kind):
            continue
        if isinstance(value, list):  # JSON's
            value = tuple(value)
            object.__setattr__(config, field.name, value)
        _check(field.name, value, kind, ranges.get(field.name))


def _check(name: str, value: Any, kind: Any, allowed: Range | None) -> None:
    kinds = get_args(kind)
    if get_origin(kind) is tuple:
        count = None if Ellipsis in kinds else len(kinds)
        if not isinstance(value, tuple) or count not in (None, len(value)):
            raise ValueError(f"{name}={value!r} must be a list of {'integers' if count is None else f'{count} integers'}")
        for item in value:
            _check(name, item, int, allowed)
    elif kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be true or false")
    elif kind is int or int in kinds:
        low, high = allowed or ANY_COUNT
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}={value!r} must be an integer from {low} to {high}")
    elif not is_number(value) or not (allowed or POSITIVE)[0] <= value <= (allowed or POSITIVE)[1]:
        raise ValueError(f"{name}={value!r} must be a number from {(allowed or POSITIVE)[0]:g} to {(allowed or POSITIVE)[1]:g}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def object_at(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key, empty where there is none. Raises ValueError where it is something else."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}={value!r} must be an object")
    return value
