"""Servers in processes of their own, to be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class ServerProcess:
    """`omnigen2 serve` with nano."""

    def __init__(self, *words: object) -> None:
        self.port = free_port()
        options = ["--port", self.port, "--threads", 1, "--backend", "ort-cpu", *words]
        command = [sys.executable, "-m", "omnigen2_rt", "serve", *map(str, options)]
        self._printed = tempfile.TemporaryFile(mode="w+")  # a pipe that nobody reads fills up, and the server waits
        self.process = subprocess.Popen(command, stderr=self._printed, text=True, env=os.environ)
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until it takes requests."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.http.get("/ready").status_code == 200:
                    return
            except httpx2.TransportError:
                assert self.process.poll() is None and time.monotonic() < deadline, "the server did not start"
                time.sleep(0.02)

    def end(self) -> str:
        """Kill it. Returns what it printed."""
        self.http.close()
        self.process.kill()
        self.process.wait()
        if self._printed.closed:
            return ""
        with self._printed:
            self._printed.seek(0)
            return self._printed.read()


@contextmanager
def server_process(*words: object) -> Iterator[ServerProcess]:
    """A server that takes requests; killed at the end."""
    server = ServerProcess(*words)
    try:
        server.wait()
        yield server
    finally:
        server.end()


def state(folder: Path) -> tuple[str, Path]:
    """The words of a server with this state."""
    return "--state", folder
