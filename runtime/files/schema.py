"""JSON as frozen dataclasses: the types and the allowed values stand in the fields' annotations, and are checked here.

A field such as `layers: Annotated[int, Range(1, 1000)]` needs no other check. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, Union, get_args, get_origin, get_type_hints

from ..errors import shown


class Rule(Protocol):
    """A rule for values whose type is right."""

    def problem(self, value: Any) -> str | None:
        """The end of a message after the value's place: what is wrong and what is allowed. None for an allowed value."""


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included."""

    least: float
    most: float

    def problem(self, value: float) -> str | None:
        """See Rule."""
        if self.least <= value <= self.most:
            return None
        return f"is {value!r}; allowed is {self.least} to {self.most}"


@dataclass(frozen=True)
class Length:
    """Texts of `least` to `most` characters, lists and objects of as many entries."""

    least: int
    most: int

    def problem(self, value: Collection[Any]) -> str | None:
        """See Rule."""
        if self.least <= len(value) <= self.most:
            return None
        allowed = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"has {len(value)} {'characters' if isinstance(value, str) else 'entries'}; allowed is {allowed}"


@dataclass(frozen=True)
class OneOf:
    """One of a few texts."""

    allowed: tuple[str, ...]

    def problem(self, value: str) -> str | None:
        """See Rule."""
        return None if value in self.allowed else f"is {shown(value)}; allowed is {', '.join(self.allowed)}"


@dataclass(frozen=True)
class Matches:
    """Texts that a pattern matches whole. allowed: the pattern in words."""

    pattern: str
    allowed: str

    def problem(self, value: str) -> str | None:
        """See Rule."""
        return None if re.fullmatch(self.pattern, value) else f"is {shown(value)}; allowed is {self.allowed}"


@dataclass(frozen=True)
class Once:
    """Texts that hold each of some placeholders once."""

    placeholders: tuple[str, ...]

    def problem(self, value: str) -> str | None:
        """See Rule."""
        wrong = [text for text in self.placeholders if value.count(text) != 1]
        return f"holds {wrong[0]} {value.count(wrong[0])} times; allowed is once" if wrong else None


def parse(kind: Any, data: Any, where: str) -> Any:
    """`data` as `kind`: a dataclass, tuple, dict, union, plain type, or one of these annotated with rules.

    Raises ValueError with the place that is wrong, what stands there and what is allowed.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = parse(parts[0], data, where)
        for rule in parts[1:]:
            if reason := rule.problem(value):
                raise ValueError(f"{where} {reason}")
        return value
    if is_dataclass(kind):
        return _parse_dataclass(kind, data, where)
    if origin is tuple and isinstance(data, list):
        return _parse_list(parts, data, where)
    if origin is dict and isinstance(data, dict):
        return {
            parse(parts[0], key, f"{where} has a key that"): parse(parts[1], value, f"{where}.{key}")
            for key, value in data.items()
        }
    if origin in (Union, UnionType):
        return _parse_union(parts, data, where)
    if kind is float and type(data) in (int, float) and math.isfinite(data):
        return float(data)
    if isinstance(kind, type) and type(data) is kind:
        return data
    raise ValueError(f"{where} is {shown(data)}, not {_name(kind)}")


def _parse_list(parts: tuple[Any, ...], data: list[Any], where: str) -> tuple[Any, ...]:
    if parts[-1] is Ellipsis:
        parts = parts[:1] * len(data)
    if len(parts) != len(data):
        raise ValueError(f"{where} has {len(data)} entries; allowed is {len(parts)}")
    return tuple(parse(part, item, f"{where}[{k}]") for k, (part, item) in enumerate(zip(parts, data, strict=True)))


def _parse_union(options: tuple[Any, ...], data: Any, where: str) -> Any:
    """`data` as the option of its own type; an object or a list as the only option that isn't plain."""
    if data is None and NoneType in options:
        return None
    possible = [option for option in options if option is not NoneType]
    for option in possible:
        plain = get_args(option)[0] if get_origin(option) is Annotated else option
        if type(data) is plain or len(possible) == 1:
            return parse(option, data, where)
    raise ValueError(f"{where} is {shown(data)}, not {' or '.join(map(_name, options))}")


def _parse_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {shown(data)}, not an object")
    known = {item.name: item for item in fields(kind)}
    required = {name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING}
    missing, unknown = sorted(required - data.keys()), sorted(data.keys() - known.keys())
    if missing or unknown:
        raise ValueError(f"{where}: missing {missing}, unknown {unknown}")
    hints = _hints(kind)
    values = {name: parse(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _name(kind: Any) -> str:
    if kind is NoneType:
        return "null"
    if get_origin(kind) is Annotated:
        return _name(get_args(kind)[0])
    names = {tuple: "a list", dict: "an object"}
    return names.get(get_origin(kind) or kind) or str(getattr(kind, "__name__", kind))
