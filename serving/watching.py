"""A job's events on the event loop: all of them, or its end alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .jobs import LAST, Event, Job

_COALESCED = ("step", "preview", "queued")
"""Events of which a slow watcher gets the latest only."""


async def until_last(job: Job) -> None:
    """Wait for the job's last event. The events before it don't wake the loop: each would keep the engine from its next step."""
    loop, final = asyncio.get_running_loop(), asyncio.Event()

    def from_any_thread(event: Event) -> None:
        if event["type"] in LAST:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(final.set)

    job.watch(from_any_thread)
    try:
        await final.wait()
    finally:
        job.unwatch(from_any_thread)


@asynccontextmanager
async def watching(job: Job) -> AsyncIterator[AsyncIterator[Event]]:
    """The job's events from now on, up to its end. Of steps and previews a slow reader gets the latest."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    unread: list[Event] = []

    def put(event: Event) -> None:
        if event["type"] in _COALESCED:
            unread[:] = [other for other in unread if other["type"] != event["type"]]
        unread.append(event)
        ready.set()

    def from_any_thread(event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            loop.call_soon_threadsafe(put, event)

    async def events() -> AsyncIterator[Event]:
        while True:
            await ready.wait()
            ready.clear()
            while unread:
                event = unread.pop(0)
                yield event
                if event["type"] in LAST:
                    return

    job.watch(from_any_thread)
    try:
        yield events()
    finally:
        job.unwatch(from_any_thread)
