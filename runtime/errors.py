"""Every error this package raises on purpose.

    OmniGen2Error              catch this to catch them all
     ├─ BundleError            a bundle, or a file in it, is missing, damaged, or of another version
     ├─ RequestError           what the caller asked for cannot be done: a value, an image, a file to write
     ├─ BackendError           an engine is missing, cannot open a graph, or failed while running one
     ├─ ExportError            a checkpoint cannot be exported, a LoRA merged, or an engine built
     └─ Cancelled              a callback (`on_step`, `on_token`) returned False

A message is one line of at most 300 characters: what was given, what is allowed, what to do next.
"""

from __future__ import annotations

import reprlib

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


def shown(value: object) -> str:
    """The value as a message shows it, bounded whatever it is: an integer of any size, an array, a list that contains itself."""
    try:
        if isinstance(value, int) and value.bit_length() > 128:
            return f"(an integer of {value.bit_length()} bits)"
        shape = getattr(value, "shape", ())
        return f"(an array of shape {shape})" if isinstance(shape, tuple) and shape else _REPR.repr(value)
    except Exception:  # the methods of a foreign object may raise anything
        return f"(a {type(value).__name__})"


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 80, 80


class BundleError(OmniGen2Error):
    """A bundle, or a file in it, is missing, damaged, or of another version."""


class RequestError(OmniGen2Error):
    """A request, setting or file of the caller is not allowed or cannot be carried out."""


class BackendError(OmniGen2Error):
    """An engine is missing, cannot open a graph, or failed while running one."""


class ExportError(OmniGen2Error):
    """A checkpoint cannot be exported, a LoRA cannot be merged, or an engine cannot be built."""


class Cancelled(OmniGen2Error):
    """A callback returned False, so the work was stopped."""
