"""Every error this package raises on purpose.

    OmniGen2Error              catch this to catch them all
     ├─ BundleError            a bundle, or a file in it, is missing, damaged, or of another version
     ├─ RequestError           what the caller asked for cannot be done: a value, an image, a file to write
     ├─ BackendError           an engine is missing, cannot open a graph, or failed while running one
     ├─ ExportError            a checkpoint cannot be exported, or an engine cannot be built
     └─ Cancelled              a callback (`on_step`, `on_token`) returned False

A message is one line of at most 300 characters: what was given, what is allowed, what to do next.
"""

from __future__ import annotations

LONGEST_MESSAGE = 300


class OmniGen2Error(Exception):
    """The root of this package's errors. The message becomes one printable line of at most 300 characters."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """The text as one printable line: what a terminal would execute is shown as an escape, too much is left out of the middle."""
    end = longest // 3
    words = " ".join(text.split())
    if len(words) > longest:
        words = f"{words[: longest - end - 3]} … {words[-end:]}"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in words)
    return shown if len(shown) <= longest else f"{shown[: longest - end - 3]} … {shown[-end:]}"


class BundleError(OmniGen2Error):
    """A bundle, or a file in it, is missing, damaged, or of another version."""


class RequestError(OmniGen2Error):
    """A request, setting or file of the caller is not allowed or cannot be carried out."""


class BackendError(OmniGen2Error):
    """An engine is missing, cannot open a graph, or failed while running one."""


class ExportError(OmniGen2Error):
    """A checkpoint cannot be exported, or an engine cannot be built."""


class Cancelled(OmniGen2Error):
    """A callback returned False, so the work was stopped."""
