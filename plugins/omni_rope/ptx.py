"""Edits the text of a PTX kernel: its name, its parameters, and Triton's additions.

Knows PTX as text only. TensorRT launches a plugin's kernel with exactly: pointers to the inputs, then int32 arguments,
then pointers to the outputs. Triton (3.5 to 3.9, all tried) appends two pointers to its own scratch memory, whether or
not the kernel uses them. TensorRT doesn't pass them, so the driver would read past the end of the argument list. They
are removed from the declaration where the code doesn't use them, and refused where it does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ENTRY = re.compile(r"\.entry\s+(?P<name>\w+)\((?P<parameters>[^)]*)\)")
_PARAMETER = re.compile(r"\.param\s+\.(?P<type>\w+)\b[^,]*?(?P<name>\w+)\s*(?:,|$)")
_DEBUG_LINE = re.compile(r"^\s*\.(?:loc|file)\b.*\n", re.MULTILINE)
_DEBUG_SECTION = re.compile(r"^\s*\.section\s+\.debug_\w+\s*\{[^}]*\}", re.MULTILINE)


def ptx_parameters(ptx: str) -> tuple[str, ...]:
    """The types of the kernel's parameters, in order: "u64" for a pointer, "u32" for an int32.

    Raises ValueError where the text does not hold exactly one kernel.
    """
    return tuple(kind for kind, _ in _parameters(ptx))


def launchable(ptx: str, expected: Sequence[str]) -> str:
    """The kernel with the `expected` parameters and no others.

    Raises ValueError if the parameters do not begin with the expected ones, or if the kernel uses a further one.
    """
    parameters = _parameters(ptx)
    kinds = [kind for kind, _ in parameters]
    if kinds[: len(expected)] != list(expected):
        raise ValueError(f"the kernel takes {kinds}, but it would be launched with {list(expected)}")
    hidden = [name for _, name in parameters[len(expected) :]]
    used = [name for name in hidden if len(re.findall(rf"\b{name}\b", ptx)) > 1]
    if used:
        raise ValueError(
            f"the kernel reads {used} beyond its {len(expected)} arguments: scratch memory that only Triton passes"
        )
    if not hidden:
        return ptx
    entry = _entry(ptx)
    kept = entry["parameters"].split(",")[: len(expected)]
    start, end = entry.span("parameters")
    return ptx[:start] + ",".join(kept) + "\n" + ptx[end:]


def renamed(ptx: str, name: str) -> str:
    """The kernel under another name, which its parameters' names follow."""
    old = _entry(ptx)["name"]
    return re.sub(rf"\b{old}(?=\b|_param_)", name, ptx)


def without_debug_information(ptx: str) -> str:
    """The kernel without source lines and paths, which would reveal the machine that built it."""
    return _DEBUG_LINE.sub("", _DEBUG_SECTION.sub("", ptx))


def _entry(ptx: str) -> re.Match[str]:
    entries = list(_ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise ValueError(f"expected one kernel in the PTX, found {len(entries)}")
    return entries[0]


def _parameters(ptx: str) -> list[tuple[str, str]]:
    text = _entry(ptx)["parameters"]
    return [(match["type"], match["name"]) for match in _PARAMETER.finditer(text.strip())]
