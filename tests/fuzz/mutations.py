"""Seeded mutations of JSON values and of bytes: what an untrusted file or a careless caller may give.

Knows nothing of what is mutated. The same seed gives the same mutation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

PATHS = (
    "../outside", "a/../../outside", "/etc/passwd", "//host/share", "C:\\file", "c:file", "a\\b", "a\0b", "a//b", "./a", "a/.",
    "a/", ".", "..", "", " ", "~", "~/x", "/dev/zero", "con", "*/_ORT_MEM_ADDR_/*", "engines/x", "bundle.json", "a" * 300,
    "/".join("a" * 2500), "link", "link/file", "FIFO",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 127, 1000, 1001, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -(2**63),
    2**64 - 1, 0.0, -0.0, 0.5, 1.0, -1.5, 1e-308, 5e-324, 1e38, 1e308, -1e308,
    "x" * 5000, "\ud800", "\x1b[2J\x07", "{prompt}", "{prompt}{prompt}", "{number}", "%", "{", "line\nline", "fp32", "float32",
    [], {}, [[]], [None], [{}], {"": None}, {"a": {"b": []}}, [0] * 2000, ["a", 1, None, {}],
    *PATHS,
)  # fmt: skip
"""Values of Python; `TEXTS` has those that only a text of JSON can hold."""
TEXTS = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, "-" + "9" * 25, "18446744073709551616", "1" + "0" * 400 + ".0",
    "[" * 100_000 + "]" * 100_000, '{"a":' * 20_000 + "0" + "}" * 20_000, "[" * 900 + "]" * 900,
    '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', "01", "0x10", "nul", "", "'a'", "// no", "1.", '{"a":1,"a":2}', '"\t"',
)  # fmt: skip

PIECES = ("/", "..", "../", "\\", "\0", "\n", "{", "}", "é", "\U0001f600", "\ud800", " ", "0", "x" * 400)
Place = tuple[Any, Any]
"""A container and the key or index of one of its values."""


def mutate_json(random: Random, value: Any) -> bytes:
    """The text of a JSON value with one to three mutations, of which the last may be one of the text or of its bytes."""
    tree = {"root": deepcopy(value)}
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        random.choice(STRUCTURAL)(random, tree)
    last = random.random()
    if last < 0.1:
        return _with_fragment(random, tree)
    if last < 0.15:
        return _with_duplicate_key(random, tree)
    text = _encode(tree["root"])
    return mutate_bytes(random, text) if last < 0.25 else text


def mutate_value(random: Random, value: Any) -> Any:
    """A copy of a value of dictionaries, lists, numbers and texts with one mutation of its structure."""
    tree = {"root": deepcopy(value)}
    random.choice(STRUCTURAL)(random, tree)
    return tree["root"]


def any_value(random: Random) -> Any:
    """One of `VALUES`, as a copy."""
    return deepcopy(random.choice(VALUES))


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """The content with one to four bytes or stretches changed, taken out, put in, repeated or cut off."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at, length = random.randrange(len(changed) + 1), random.choice((1, 1, 2, 8, 100))
        match random.randrange(6):
            case 0:
                del changed[at : at + length]
            case 1:
                changed[at:at] = random.randbytes(length)
            case 2:
                changed[at : at + length] = random.randbytes(len(changed[at : at + length]))
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at : at + 1] = bytes(byte ^ (1 << random.randrange(8)) for byte in changed[at : at + 1])
            case _:
                if random.random() < 0.2:
                    del changed[at:]
    return bytes(changed)


def _place(random: Random, tree: dict[str, Any]) -> Place:
    """A place, reached by a walk from the root that takes each branch alike and may stop at each container."""
    container: Any = tree
    key: Any = "root"
    while isinstance(child := container[key], dict | list) and child and random.random() < 0.88:
        container, key = child, random.choice([*child]) if isinstance(child, dict) else random.randrange(len(child))
    return container, key


def _replace(random: Random, tree: dict[str, Any]) -> None:
    container, key = _place(random, tree)
    container[key] = any_value(random)


def _copy_another(random: Random, tree: dict[str, Any]) -> None:
    (source, name), (target, key) = _place(random, tree), _place(random, tree)
    target[key] = deepcopy(source[name])


def _remove(random: Random, tree: dict[str, Any]) -> None:
    container, key = _place(random, tree)
    if container is not tree:
        del container[key]


def _repeat(random: Random, tree: dict[str, Any]) -> None:
    container, key = _place(random, tree)
    if isinstance(container, list):
        container.insert(random.randrange(len(container) + 1), deepcopy(container[key]))
    else:
        container[f"{key}{random.choice((' ', '_', '2'))}"] = deepcopy(container[key])


def _add(random: Random, tree: dict[str, Any]) -> None:
    container, _ = _place(random, tree)
    if isinstance(container, list):
        container.append(any_value(random))
    else:
        container[random.choice(("unknown", "", "__class__", "x" * 5000, "\ud800", *PATHS))] = any_value(random)


def _rename(random: Random, tree: dict[str, Any]) -> None:
    container, key = _place(random, tree)
    if isinstance(container, dict) and container is not tree:
        container[key[:-1] + random.choice(("", "X", "\0"))] = container.pop(key)


def _wrap(random: Random, tree: dict[str, Any]) -> None:
    container, key = _place(random, tree)
    inner = container[key]
    container[key] = random.choice(([inner], {"a": inner}, [inner, inner], str(inner)[:5000]))


def _nudge(random: Random, tree: dict[str, Any]) -> None:
    """Change a number a little or by a magnitude, a text by a piece."""
    container, key = _place(random, tree)
    value = container[key]
    if isinstance(value, bool):
        container[key] = not value
    elif isinstance(value, int | float) and math.isfinite(value):
        container[key] = random.choice((value + 1, value - 1, -value, value * 2, value * 1000, value / 2, float(value)))
    elif isinstance(value, str):
        at = random.randrange(len(value) + 1)
        container[key] = value[:at] + random.choice(PIECES) + value[at + random.randrange(2) :]


STRUCTURAL: tuple[Callable[[Random, dict[str, Any]], None], ...] = (
    _replace, _replace, _copy_another, _remove, _repeat, _add, _rename, _wrap, _nudge, _nudge,
)  # fmt: skip


def _encode(value: Any) -> bytes:
    """JSON; half a character stands as an escape in one of two values, as three bytes that aren't UTF-8 in the other."""
    text = json.dumps(value, ensure_ascii=len(str(value)) % 2 == 0)
    return text.encode("utf-8", "surrogatepass")


def _with_fragment(random: Random, tree: dict[str, Any]) -> bytes:
    container, key = _place(random, tree)
    container[key] = "<fragment>"
    return _encode(tree["root"]).replace(b'"<fragment>"', random.choice(TEXTS).encode(), 1)


def _with_duplicate_key(random: Random, tree: dict[str, Any]) -> bytes:
    container, key = _place(random, tree)
    if isinstance(container, list):
        return _encode(tree["root"])
    name, value = json.dumps(key), json.dumps(container[key])
    container[key] = "<duplicate>"
    text = _encode(tree["root"])
    return text.replace(b'"<duplicate>"', f"{value}, {name}: {value}".encode(), 1)
