"""Answers that are sent while a job is under way, and what happens when the caller goes away: its job is cancelled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from fastapi import Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from ..errors import ApiError, as_api_error
from ..jobs import Job
from ..service import Service

PING_S = 15.0
"""After this time without an event a comment is sent, so that proxies keep the connection."""
NO_RETRY = {"x-should-retry": "false"}
"""Tells OpenAI's client not to ask again: the drawing had begun."""
CLOSED = 499


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error's answer."""
    wait = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    challenge = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return JSONResponse(error.body(), error.status, {**wait, **challenge, **(headers or {})})


async def answer(request: Request, service: Service, job: Job, build: Callable[[Job], dict[str, Any]]) -> Response:
    """Wait for the job and answer with what `build` makes of it. If the caller goes away, the job is cancelled."""
    outcome = asyncio.ensure_future(service.outcome(job))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({outcome, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            return Response(status_code=CLOSED)
        return JSONResponse(build(await outcome))
    except ApiError as error:
        return error_response(error, NO_RETRY)
    finally:
        service.cancel(job)
        for task in (outcome, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def event_stream(
    service: Service, job: Job, events: Callable[[], AsyncIterator[bytes]], *, cancels: bool, failure: Callable[[ApiError], bytes]
) -> StreamingResponse:
    """Server-sent events. cancels: whether the job ends when the caller goes away. failure: the event of an error."""

    async def body() -> AsyncIterator[bytes]:
        try:
            async for event in _with_pings(events()):
                yield event
        except Exception as error:
            yield failure(as_api_error(error))
        finally:
            if cancels:
                service.cancel(job)

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """An event's bytes."""
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(data)}\n\n".encode()


async def _with_pings(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            following = asyncio.ensure_future(_next(events))
            while not (await asyncio.wait({following}, timeout=PING_S))[0]:
                yield b": still at work\n\n"
            try:
                yield following.result()
            except StopAsyncIteration:
                return
    finally:
        if following is not None and not following.done():
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
        await _close(events)


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events)


async def _close(events: AsyncIterator[bytes]) -> None:
    close: Callable[[], Awaitable[None]] | None = getattr(events, "aclose", None)
    if close is not None:
        await close()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
