"""The refusal of a body that is not allowed: the parameter, and what is wrong with it."""

from __future__ import annotations

import re

from pydantic import ValidationError

from ..errors import ApiError


def refusal(error: ValidationError) -> ApiError:
    """The interface's error for a body that is not allowed: the first of its problems that lie deepest.

    A value that may be of several kinds has a problem for each; the deepest is that of the kind which was meant.
    """
    problem = max(error.errors(include_url=False, include_context=False, include_input=False), key=lambda each: len(each["loc"]))
    kind, where = problem["type"], _place(problem["loc"])
    if kind in ("union_tag_not_found", "union_tag_invalid") and where is None:
        return ApiError("invalid_value", "kind is required: draw, chat or reflect", "kind")
    if kind == "string_pattern_mismatch":
        return ApiError("invalid_value", f"{where} must be auto or WIDTHxHEIGHT in pixels, such as 512x512", where)
    if kind == "extra_forbidden":
        return ApiError("unsupported_value", f"{where} is not supported here; /docs lists what is", where)
    if kind == "missing":
        return ApiError("invalid_value", f"{where} is required", where)
    code = "unsupported_value" if kind in ("literal_error", "none_required", "union_tag_invalid") else "invalid_value"
    return ApiError(code, f"{where or 'the body'}: {problem['msg']}", where)


def _place(location: tuple[int | str, ...]) -> str | None:
    """The parameter's name: messages[0].content. The kinds of a union's members are left out."""
    parts = location[1:] if location[:1] and location[0] in ("draw", "reflect", "chat") else location
    place = ""
    for part, following in zip(parts, (*parts, None)[1:], strict=True):
        if isinstance(part, int):
            place += f"[{part}]"
        elif part not in ("str", following) and (re.fullmatch(r"[a-z_0-9\[\]]+", part) or len(parts) == 1):
            place += f".{part}" if place else part[:80]
    return place or None
