"""The deadline of an HTTP exchange, which covers every part of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from omnigen2_rt.evaluation.http_post import NotAnswered, post_json

BODY = b'{"fine": 1}'
HEAD = b"HTTP/1.1 200 OK\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nContent-Length: %d\r\n\r\n" % len(BODY)


class DrippingServer:
    """Answers one request, `slow` a byte at a time. sent: the bytes of it that were sent until the client left."""

    def __init__(self, quick: bytes, slow: bytes) -> None:
        self._quick, self._slow, self.sent = quick, slow, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            connection.recv(65_536)
            try:
                connection.sendall(self._quick)
                for number in range(len(self._slow)):
                    connection.sendall(self._slow[number : number + 1])
                    self.sent += 1
                    time.sleep(0.05)
            except OSError:  # the client has left
                return


@contextmanager
def dripping(quick: bytes, slow: bytes) -> Iterator[DrippingServer]:
    server = DrippingServer(quick, slow)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    thread.join()


@pytest.mark.parametrize(("quick", "slow"), [(b"", HEAD), (HEAD, BODY)], ids=["headers", "body"])
def test_answer_that_comes_byte_by_byte_ends_at_the_deadline(quick: bytes, slow: bytes) -> None:
    with dripping(quick, slow) as server, pytest.raises(NotAnswered, match="timeout"):
        post_json(server.url, b"{}", {}, 0.3)
    assert server.sent < len(slow)


def test_answer_that_comes_slowly_but_in_time_is_taken() -> None:
    with dripping(HEAD, BODY) as server:
        answer = post_json(server.url, b"{}", {}, 30)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, BODY, str(len(BODY)))


def test_server_that_accepts_and_says_nothing_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(NotAnswered, match="timeout"):
            post_json(f"https://127.0.0.1:{listener.getsockname()[1]}/v1", b"{}", {}, 0.2)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(65_536)  # the client's greeting
            assert connection.recv(65_536) == b""
