"""A chat-completions endpoint on loopback, whose answers a function decides: right ones, and every broken one."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer of the double.

    delay_s: waits so long before it answers.
    cut_after: closes the connection after this many bytes of the body; None answers it whole.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut_after: int | None = None


def says(text: str | None, *, model: str = "judge-of-today", finish_reason: str = "stop", **message: Any) -> Reply:
    """A chat completion of this text."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 0}}
    data = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
    return Reply(body=json.dumps(data).encode())


def fails(status: int, code: str = "", *, message: str = "no", **headers: str) -> Reply:
    """An error as OpenAI's API words it. headers: with _ in place of -."""
    error = {"message": message, "type": "an_error", "param": None, "code": code or None}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, body=json.dumps({"error": error}).encode(), headers=named)


CUT = Reply(cut_after=0)
"""The connection is closed without an answer."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that came in: its path, its headers with names in lower case, and its JSON."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """All text of the last message."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else "\n".join(part["text"] for part in content if part["type"] == "text")

    @property
    def pictures(self) -> list[str]:
        """The data URLs of the last message, in their order."""
        content = self.body["messages"][-1]["content"]
        parts = [] if isinstance(content, str) else content
        return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


class EndpointDouble:
    """url: its base. asked: the requests so far. reply: decides each answer, from the request and its number, 0 for the first."""

    def __init__(self, url: str, reply: Callable[[Asked, int], Reply]) -> None:
        self.url, self.reply = url, reply
        self.asked: list[Asked] = []
        self._lock = threading.Lock()

    def take(self, asked: Asked) -> Reply:
        with self._lock:
            number = len(self.asked)
            self.asked.append(asked)
        return self.reply(asked, number)


@contextmanager
def endpoint_double(reply: Callable[[Asked, int], Reply]) -> Iterator[EndpointDouble]:
    """A double on a free port, for as long as the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = double.take(Asked(path=self.path, headers=headers, body=body))
            time.sleep(answer.delay_s)
            try:
                self._send(answer)
            except OSError:  # the client has left
                self.close_connection = True

        def _send(self, answer: Reply) -> None:
            if answer.cut_after == 0:
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body[: answer.cut_after])
            self.close_connection = self.close_connection or answer.cut_after is not None

        def log_message(self, format: str, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    double = EndpointDouble(f"http://127.0.0.1:{server.server_address[1]}/v1", reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def in_turn(*replies: Reply) -> Callable[[Asked, int], Reply]:
    """These answers one after the other; the last one from then on."""
    return lambda asked, number: replies[min(number, len(replies) - 1)]
