"""The errors of the HTTP interface, in OpenAI's form, and what the runtime's errors become there."""

from __future__ import annotations

import logging
import re
from traceback import format_tb
from typing import Any

from ..runtime.errors import OmniGen2Error, RequestError, one_line

LOG = logging.getLogger("omnigen2_rt.serving")
CODES: dict[str, int] = {
    "invalid_value": 400,
    "unsupported_value": 400,
    "image_unreadable": 400,
    "image_url_not_allowed": 400,
    "invalid_api_key": 401,
    "origin_not_allowed": 403,
    "model_not_found": 404,
    "job_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "too_large": 413,
    "queue_full": 429,
    "engine_error": 500,
    "no_replica": 503,
    "out_of_memory": 503,
    "shutting_down": 503,
}
"""The status of each code."""

PARAMETERS = {
    "steps": "num_inference_steps",
    "text_guidance": "guidance_scale",
    "image_guidance": "image_guidance_scale",
    "height_px": "size",
    "width_px": "size",
    "max_new_tokens": "max_completion_tokens",
    "input": "image",  # "input image of 8×8 px is too narrow"
    "picture": "size",  # "picture of 8×8 px is too narrow"
}
"""Fields of the runtime that have another name in the interface."""
_SAME_NAMES = {"prompt", "negative_prompt", "cfg_range", "scheduler", "cache", "max_pixels", "seed", "temperature", "top_p"}
_OUT_OF_MEMORY = re.compile(r"out of memory|bad_?alloc|failed to allocate|cannot allocate", re.IGNORECASE)


class ApiError(Exception):
    """A request that can't be carried out. Raises KeyError for a code that has no status.

    code: one of `CODES`.
    param: the parameter that is wrong, or None.
    retry_after_s: after which time another try makes sense, or None.
    """

    def __init__(self, code: str, message: str, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(one_line(message))
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.status = CODES[code]

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {"error": self.facts()}

    def facts(self) -> dict[str, Any]:
        """The error alone, as a job and an event hold it."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"message": str(self), "type": kind, "param": self.param, "code": self.code}


def from_facts(facts: dict[str, Any]) -> ApiError:
    """The error whose facts these are."""
    return ApiError(facts["code"], facts["message"], facts["param"])


def as_api_error(error: BaseException) -> ApiError:
    """The interface's error for anything that a request's work raises."""
    if isinstance(error, ApiError):
        return error
    message = str(error) if isinstance(error, OmniGen2Error) else f"an internal error ({type(error).__name__})"
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return ApiError("out_of_memory", "the engine ran out of memory: ask for a smaller picture, or for fewer at once")
    if isinstance(error, RequestError):
        return ApiError("invalid_value", message, _parameter(message))
    if not isinstance(error, OmniGen2Error):  # its own text may hold a prompt
        LOG.error("%s\n%s", message, "".join(format_tb(error.__traceback__)))
    return ApiError("engine_error", message)


def _parameter(message: str) -> str | None:
    """The parameter that a RequestError's message begins with."""
    word = re.match(r"\w*", message)
    name = word[0] if word else ""
    return PARAMETERS.get(name, name if name in _SAME_NAMES else None)
