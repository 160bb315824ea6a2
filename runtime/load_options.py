"""The options with which several processes, or several nodes of a workflow, open bundles alike. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options of `load`: see there. `load(bundle, **asdict(options))` opens a bundle with them.

    `load` checks them, on the machine that opens the bundle: another one may have fewer processors.
    """

    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    memory_limit_bytes: int | None = None
