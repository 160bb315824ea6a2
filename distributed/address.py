"""Addresses of Ray clusters, checked before Ray is asked: it retries for minutes where nothing listens. Knows nothing of Ray."""

from __future__ import annotations

import socket

from ..runtime.errors import OmniGen2Error, RequestError

TIMEOUT_S = 5.0
NAMED = ("auto", "local")


def check_address(address: str) -> None:
    """Raises RequestError for what is no address of a cluster, OmniGen2Error where nothing listens."""
    if address in NAMED:
        return
    host, found, port = address.rpartition(":")
    if not (found and host and port.isascii() and port.isdecimal()) or "/" in host or not 0 < int(port) < 2**16:
        raise RequestError(f"--ray {address!r} is not HOST:PORT of a cluster, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OmniGen2Error(f"--ray {address!r}: no cluster answers there ({reason}); `ray start` shows its address") from error
