"""The guard that every request passes first: its key, the page that it comes from, headers of every answer, count and log.

The log has no bodies and no queries. Knows nothing of the endpoints.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .budget import ByteBudget
from .endpoints.streams import error_response
from .errors import LOG, ApiError
from .metrics import Metrics

LOGGED_CHARACTERS = 80
ANYBODY = "anybody"
"""The owner of jobs where there are no keys."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PUBLIC = ("/", "/health", "/ready", "/docs", "/openapi.json")
_SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def digest(key: str) -> bytes:
    """The digest that is kept of an API key."""
    return hashlib.sha256(key.encode()).digest()


class Guard:
    """Wraps the application. keys: digests of the API keys; with none, only names of this machine are answered.

    held: counts the bytes of bodies until their requests are answered.
    """

    def __init__(self, app: ASGIApp, keys: Collection[bytes], metrics: Metrics, held: ByteBudget) -> None:
        self._app = app
        self._keys = tuple(keys)
        self._metrics = metrics
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id, started = f"req_{secrets.token_hex(12)}", time.monotonic()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                marked = MutableHeaders(scope=message)
                marked["x-request-id"] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    marked[name] = value
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self._metrics.requests.labels(path, str(status)).inc()
            await send(message)

        state = scope.setdefault("state", {})
        state["held_bytes"] = 0
        try:
            await self._answer(scope, headers, receive, send_marked)
        finally:
            if state["held_bytes"]:
                self._held.give(state["owner"], state["held_bytes"])
            words = scope["method"], ascii(scope["path"][:LOGGED_CHARACTERS])[1:-1], status or "-"
            LOG.info("%s %s %s %.3f s %s", *words, time.monotonic() - started, request_id)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        try:
            self._check_origin(headers)
            owner = self._owner(scope["path"], headers)
        except ApiError as error:
            response: Response = error_response(error)
            await response(scope, receive, send)
            return
        scope["state"]["owner"] = owner
        await self._app(scope, receive, send)

    def _check_origin(self, headers: Headers) -> None:
        """Raises ApiError for requests that a page of another origin sends, and for foreign names of a server without keys."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and _parts(origin).netloc.lower() != host.lower():
            raise ApiError("origin_not_allowed", "requests of other sites' pages are refused")
        if not self._keys and (_parts(f"//{host}").hostname or "") not in LOOPBACK:
            message = f"host {host[:80]!r} is not a name of this machine; without API keys no other is answered"
            raise ApiError("origin_not_allowed", message)

    def _owner(self, path: str, headers: Headers) -> str:
        if not self._keys:
            return ANYBODY
        if path in _PUBLIC or path.startswith("/ui/"):
            return ""
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = digest(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._keys]  # all of them: the time tells nothing
        if kind.lower() != "bearer" or not any(matches):
            raise ApiError("invalid_api_key", "a valid API key is needed: Authorization: Bearer KEY")
        return given.hex()[:32]


def _parts(address: str) -> SplitResult:
    """The parts of an address; empty ones where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
