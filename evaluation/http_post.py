"""One HTTP POST of JSON: no redirects, a bounded answer, a deadline for the whole exchange. Knows nothing of chats or retries."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlsplit

from ..runtime.errors import RequestError, shown

MAX_ANSWER_BYTES = 16 * 2**20
_CHUNK_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """A server's answer. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotAnswered(Exception):
    """No whole answer came: no connection, a connection that was cut, or a timeout. The message says which."""


def check_url(name: str, url: str) -> str:
    """The address without a / at its end. Raises RequestError for anything but a plain http or https address."""
    try:
        parts = urlsplit(url)
        is_allowed = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_allowed = False
    if not is_allowed or not url.isprintable() or " " in url:
        raise RequestError(f"{name}={shown(url)} is not an address such as https://host/v1 or http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise RequestError(f"{name} holds a user name or a password: leave them out; a key goes into the environment")
    return url.rstrip("/")


def post_json(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> HttpAnswer:
    """Send one request. Proxies are taken from the environment, as Python's `urllib` does. Raises NotAnswered."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method="POST")
    deadline = time.monotonic() + timeout_s
    try:
        try:
            response = urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:  # any status but 2xx; it is an answer as well
            response = error
        with response:
            pairs = {name.lower(): value for name, value in response.headers.items()}
            body = _read(response, deadline)
            if len(body) < int(pairs.get("content-length", 0)):  # `read1` takes a cut connection for the end
                raise ConnectionResetError
            return HttpAnswer(status=response.status, headers=pairs, body=body)
    except urllib.error.URLError as error:
        raise NotAnswered(_reason(error.reason if isinstance(error.reason, Exception) else error)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotAnswered(_reason(error)) from None


def _read(response: IO[bytes], deadline: float) -> bytes:
    data = bytearray()
    read1 = getattr(response, "read1", response.read)
    while chunk := read1(_CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise NotAnswered(f"the answer is larger than {MAX_ANSWER_BYTES // 2**20} MB")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(data)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | ConnectionResetError | BrokenPipeError):
        return "the connection was cut"
    return getattr(error, "strerror", None) or type(error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Returns redirects as answers: another host must not get the key."""

    def redirect_request(self, *_: object) -> None:
        return None
