"""The builders of engines by library, and the choice between them."""

from __future__ import annotations

from itertools import chain

from ...runtime.errors import ExportError
from .engine_builder import EngineBuilder
from .rtx import RTXBuilder
from .standard import StandardBuilder

BUILDERS: dict[str, EngineBuilder] = {builder.library.name: builder for builder in (StandardBuilder(), RTXBuilder())}
"""By the library's name, in the order in which "auto" tries them."""


def choose_builder(library: str, rope: str = "auto") -> EngineBuilder:
    """The builder of a library; "auto" takes the first that builds here, else the first whose parser can be asked.

    rope: see BuildOptions.
    Raises ExportError for another name.
    """
    if library == "auto":
        able = (builder for builder in BUILDERS.values() if builder.problem(rope) is None)
        present = (builder for builder in BUILDERS.values() if builder.parser_problem() is None)
        return next(chain(able, present, BUILDERS.values()))
    if library not in BUILDERS:
        raise ExportError(f"library={library!r} is not one of auto, {', '.join(BUILDERS)}")
    return BUILDERS[library]
