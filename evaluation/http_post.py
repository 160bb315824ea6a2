"""One HTTP POST of JSON: no redirects, a bounded answer, a deadline for the whole exchange. Knows nothing of chats or retries."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any
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
    """Send one request. Proxies are taken from the environment, as Python's `urllib` does.

    Raises NotAnswered, at the latest after `timeout_s`, whatever the exchange is waiting for.
    """
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method="POST")
    connections, answer = _Connections(), Future[HttpAnswer]()
    threading.Thread(target=_run, args=(answer, request, timeout_s, connections), daemon=True).start()
    try:
        return answer.result(timeout_s)
    except urllib.error.URLError as error:
        raise NotAnswered(_reason(error.reason if isinstance(error.reason, Exception) else error)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotAnswered(_reason(error)) from None
    finally:
        connections.end()  # at the deadline this ends the thread, whatever it waits for


def _run(answer: Future[HttpAnswer], request: urllib.request.Request, timeout_s: float, connections: _Connections) -> None:
    """The exchange in a thread of its own. No step of it can hold its caller longer than the caller waits."""
    try:
        answer.set_result(_exchange(request, timeout_s, connections))
    except BaseException as error:  # raised by the caller
        answer.set_exception(error)
    finally:
        connections.end()


def _exchange(request: urllib.request.Request, timeout_s: float, connections: _Connections) -> HttpAnswer:
    opener = urllib.request.build_opener(_NoRedirects, _Http(connections), _Https(connections))
    try:
        response = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:  # any status but 2xx; it is an answer as well
        response = error
    with response:
        pairs = {name.lower(): value for name, value in response.headers.items()}
        body = _read(response)
        if len(body) < int(pairs.get("content-length", 0)):  # `read1` takes a cut connection for the end
            raise ConnectionResetError
        return HttpAnswer(status=response.status, headers=pairs, body=body)


def _read(response: IO[bytes]) -> bytes:
    data = bytearray()
    read1 = getattr(response, "read1", response.read)
    while chunk := read1(_CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise NotAnswered(f"the answer is larger than {MAX_ANSWER_BYTES // 2**20} MB")
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


class _Connections:
    """The connections of an exchange, which another thread can end: each one also has a second descriptor here."""

    def __init__(self) -> None:
        self._lock, self._is_ended = threading.Lock(), False
        self._sockets = list[socket.socket]()

    def open(self, *words: Any) -> socket.socket:
        """A connection, as `socket.create_connection` opens it."""
        connection = socket.create_connection(*words)
        with self._lock:
            if self._is_ended:
                connection.close()
                raise TimeoutError
            self._sockets.append(connection.dup())
        return connection

    def end(self) -> None:
        """End all connections, and every one that is opened later."""
        with self._lock:
            self._is_ended = True
            while self._sockets:
                with self._sockets.pop() as connection, suppress(OSError):  # the other side may have ended it
                    connection.shutdown(socket.SHUT_RDWR)

    def of(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        """Makes connections of a kind, which open their sockets here: before TLS, and before a proxy is asked."""

        def connect(host: str, **options: Any) -> http.client.HTTPConnection:
            connection = kind(host, **options)
            connection._create_connection = self.open  # type: ignore[attr-defined]
            return connection

        return connect


class _Http(urllib.request.HTTPHandler):
    """Opens its connections where they can be ended."""

    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connections.of(http.client.HTTPConnection), req)


class _Https(urllib.request.HTTPSHandler):
    """Opens its connections where they can be ended."""

    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connections.of(http.client.HTTPSConnection), req)
