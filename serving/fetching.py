"""Fetches pictures from allowed hosts: over public addresses only, without redirects, bounded in time and size."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from .errors import ApiError
from .settings import MAX_PICTURE_BYTES

TIMEOUT_S = 10.0
_CHUNK_BYTES = 2**16


def fetch_picture(url: str, hosts: Collection[str], param: str) -> bytes:
    """The bytes at an address. Raises ApiError where its host isn't allowed or isn't public, or can't be read."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise ApiError("image_url_not_allowed", f"{param} is no address: {error}", param) from error
    if parts.scheme not in ("http", "https") or not host:
        raise ApiError("image_url_not_allowed", f"{param} must be a data URL, or an http(s) address on an allowed host", param)
    if host not in hosts:
        allowed = ", ".join(sorted(hosts)) or "none"
        raise ApiError("image_url_not_allowed", f"{param}: pictures of {host!r} aren't fetched; allowed hosts: {allowed}", param)
    try:
        return _fetch(parts, host, port or (443 if parts.scheme == "https" else 80), param)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ApiError("image_unreadable", f"{param} can't be fetched: {type(error).__name__}", param) from error


def _fetch(parts: SplitResult, host: str, port: int, param: str) -> bytes:
    deadline = time.monotonic() + TIMEOUT_S
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    connection.sock = _connect(parts.scheme, host, port, param)  # to the address that was checked: a name may change its own
    try:
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "omnigen2-rt"})
        with connection.getresponse() as response:
            if response.status != 200:
                raise ApiError("image_unreadable", f"{param} gave status {response.status}; redirects aren't followed", param)
            return _read(response, deadline, param)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, deadline: float, param: str) -> bytes:
    data = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_PICTURE_BYTES:
            raise ApiError("too_large", f"{param} is larger than {MAX_PICTURE_BYTES // 2**20} MB", param)
        if time.monotonic() > deadline:
            raise ApiError("image_unreadable", f"{param} took longer than {TIMEOUT_S:g} s", param)
    return bytes(data)


def _connect(scheme: str, host: str, port: int, param: str) -> socket.socket:
    addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not addresses or not all(is_public(address) for address in addresses):
        raise ApiError("image_url_not_allowed", f"{param}: {host!r} has an address that isn't public", param)
    connection = socket.create_connection((addresses[0], port), TIMEOUT_S)
    if scheme == "http":
        return connection
    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not of this machine, its network, or a cloud's metadata service."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    return number.is_global and not number.is_multicast
