"""Values of a caller's own classes, whose methods raise."""

from __future__ import annotations

from typing import Any


class Disguised:
    """Raises where its class is asked for, as `isinstance` does."""

    @property
    def __class__(self) -> Any:
        raise OSError("class")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...
