"""Fetches pictures from allowed hosts: over public addresses only, without redirects, bounded in time, size and number."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

import h11

from ..errors import ApiError
from ..settings import MAX_FETCHES, MAX_PICTURE_BYTES, MEGABYTE

TIMEOUT_S = 10.0
"""The longest time for a picture, from looking up its host to the last byte."""
REQUEST_TIMEOUT_S = 30.0
"""For all pictures of a request."""
MOST_AT_ONCE = 8
_CHUNK_BYTES = 2**16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Fetcher:
    """Fetches pictures for a server. hosts: those that are allowed. most_bytes: of all pictures of a request together."""

    def __init__(self, hosts: Collection[str], most_bytes: int) -> None:
        self._hosts = hosts
        self._most_bytes = most_bytes
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._lookups = ThreadPoolExecutor(MOST_AT_ONCE, "lookup")  # a slow name server holds up nothing else

    async def fetch(self, places: Collection[tuple[str, str]]) -> list[bytes]:
        """The bytes at addresses, each given with its parameter.

        Raises ApiError where a host isn't allowed or isn't public, where one can't be read, and where they are too many.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + REQUEST_TIMEOUT_S
        targets = [(_target(url, self._hosts, param), param) for url, param in places]
        if len(targets) > MAX_FETCHES:
            message = f"{len(targets)} pictures are to be fetched; at most {MAX_FETCHES} are: send the others as data URLs"
            raise ApiError("invalid_value", message, targets[-1][1])
        fetched: list[bytes] = []
        for parts, param in targets:
            with _reporting(param):
                async with asyncio.timeout_at(min(ends, loop.time() + TIMEOUT_S)), self._places:
                    fetched.append(await self._fetch(parts, param))
            if sum(map(len, fetched)) > self._most_bytes:
                message = f"the fetched pictures are larger than {self._most_bytes // MEGABYTE} MB together"
                raise ApiError("too_large", message, param)
        return fetched

    def close(self) -> None:
        """Look up no name any more."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, parts: SplitResult, param: str) -> bytes:
        reader, writer = await self._connect(parts, param)
        try:
            return await _get(reader, writer, parts, param)
        finally:
            writer.close()

    async def _connect(self, parts: SplitResult, param: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the address that was checked: a name may change its own."""
        host, is_secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if is_secure else 80)
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._lookups, look_up)
        addresses = [str(info[4][0]) for info in found]
        if not addresses or not all(is_public(address) for address in addresses):
            raise ApiError("image_url_not_allowed", f"{param}: {host!r} has an address that isn't public", param)
        security: dict[str, Any] = {"ssl": ssl.create_default_context(), "server_hostname": host} if is_secure else {}
        return await asyncio.open_connection(addresses[0], port, **security)


@contextmanager
def _reporting(param: str) -> Iterator[None]:
    """Turns what fetching a picture raises into an ApiError."""
    try:
        yield
    except TimeoutError as error:
        raise ApiError("image_unreadable", f"{param} took longer than {TIMEOUT_S:g} s", param) from error
    except (OSError, h11.ProtocolError, ValueError) as error:
        raise ApiError("image_unreadable", f"{param} can't be fetched: {type(error).__name__}", param) from error


def _target(url: str, hosts: Collection[str], param: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise ApiError("image_url_not_allowed", f"{param} is no address: {error}", param) from error
    if parts.scheme not in ("http", "https") or not host:
        raise ApiError("image_url_not_allowed", f"{param} must be a data URL, or an http(s) address on an allowed host", param)
    if host not in hosts:
        allowed = ", ".join(sorted(hosts)) or "none"
        raise ApiError("image_url_not_allowed", f"{param}: pictures of {host!r} aren't fetched; allowed hosts: {allowed}", param)
    return parts


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: SplitResult, param: str) -> bytes:
    connection, data = h11.Connection(h11.CLIENT), bytearray()
    host = parts.netloc.rpartition("@")[2]
    headers = [("Host", host), ("Accept", "image/*"), ("User-Agent", "omnigen2-rt"), ("Connection", "close")]
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    for part in (h11.Request(method="GET", target=target, headers=headers), h11.EndOfMessage()):
        writer.write(connection.send(part) or b"")
    while not isinstance(event := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK_BYTES))
        elif isinstance(event, h11.Response) and event.status_code != 200:
            message = f"{param} gave status {event.status_code}; redirects aren't followed"
            raise ApiError("image_unreadable", message, param)
        elif isinstance(event, h11.Data):
            data += event.data
            if len(data) > MAX_PICTURE_BYTES:
                raise ApiError("too_large", f"{param} is larger than {MAX_PICTURE_BYTES // MEGABYTE} MB", param)
    return bytes(data)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not of this machine, its network, or a cloud's metadata service."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF) if number in _NAT64 else None
        number = number.ipv4_mapped or number.sixtofour or translated or number
    return number.is_global and not number.is_multicast
