"""Runs the application with uvicorn: signals drain it, and connections that never become a request are closed."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..runtime.errors import OmniGen2Error
from .app import create_app
from .errors import LOG
from .scheduler import SWITCH_INTERVAL_S
from .service import Service

KEEP_ALIVE_S = 75
"""The longest time that a connection may wait for its next request: longer than clients and proxies keep one."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket on which a server can listen. Raises OmniGen2Error where the address is taken, or isn't this machine's."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere it would let two servers take one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise OmniGen2Error(f"can't listen at --host {host!r}, --port {port}: {reason}; choose another --port") from error
    return listener


def log_requests() -> None:
    """Log a line for each request to standard error, without bodies and queries."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)


def run(service: Service, listener: socket.socket) -> None:
    """Serve until a signal. The first lets requests under way end, a second ends the process at once."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = uvicorn.Config(
        create_app(service),
        http=protocol(service.settings.header_timeout_s),
        ws="none",
        lifespan="on",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    _Server(config, service).run([listener])
    if service.is_at_work:  # Python's own end would wait for that step
        logging.shutdown()
        os._exit(0)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal, in the main thread."""
        if self._drain is not None:
            os._exit(0)
        try:
            self._drain = asyncio.get_running_loop().create_task(self._stop())
        except RuntimeError:  # the loop has not begun
            self.should_exit = True

    async def _stop(self) -> None:
        await self._service.drain()
        self.should_exit = True


def protocol(header_timeout_s: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which closes a connection that has not sent a request's head within a time.

    Nor does it wait longer for the rest of a body that is already answered.
    """

    class Protocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._deadline = self.loop.call_later(header_timeout_s, transport.close)

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and self.conn.their_state is h11.IDLE:
                self._deadline = self.loop.call_later(header_timeout_s, self.transport.close)
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._cancel_deadline()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:  # it was answered before its body was there
                self.loop.call_later(header_timeout_s, self._end, self.cycle)

        def _end(self, cycle: Any) -> None:
            if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_deadline()
            super().connection_lost(exc)

        def _cancel_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Protocol
