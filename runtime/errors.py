"""Every error this package raises on purpose.

    OmniGen2Error              catch this to catch them all
     ├─ BundleError            a bundle, or a file in it, is missing, damaged, or of another version
     ├─ RequestError           what the caller asked for cannot be done: a value, an image, a file to write
     ├─ BackendError           an engine is missing, cannot open a graph, or failed while running one
     ├─ ExportError            a checkpoint cannot be exported, or an engine cannot be built
     └─ Cancelled              a callback (`on_step`, `on_token`) returned False

A message is one line: what was given, what is allowed, what to do next.
"""

from __future__ import annotations


class OmniGen2Error(Exception):
    """The root of this package's errors."""


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
