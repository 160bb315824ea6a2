"""Load on the server: clients that draw without a pause, beside the bare pipeline on the same threads.

Both take turns, because a machine's speed drifts. A round's ratio is that to the bare pipeline before and after it. The
clients run in a process of their own, which takes processor time from the server. Prints JSON.
Run as `python -m benchmarks.serving --seconds 120 --clients 50`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryFile
from typing import IO, Any

import httpx2

from omnigen2_rt import Request, load
from omnigen2_rt.commands.bench import machine_facts
from omnigen2_rt.runtime.pipeline import Pipeline

PROMPT = "a large red circle on a blue background"


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=120.0, help="of load, all rounds together")
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--port", type=int, default=8765)
    chosen = options.parse_args()
    figures = asyncio.run(take_turns(chosen))
    facts = {"options": vars(chosen), **figures, "load_averages": os.getloadavg()}
    print(json.dumps({**machine_facts(), **facts}, indent=1))


async def take_turns(chosen: argparse.Namespace) -> dict[str, Any]:
    """The bare pipeline and the loaded server, in turn."""
    load_of_clients = Load(chosen.clients, chosen.steps)
    bare: list[float] = []
    served: list[float] = []
    seconds = chosen.seconds / chosen.rounds
    with load(backend="ort-cpu", threads=chosen.threads) as pipeline:
        async with server_process(chosen) as http:
            bare.append(bare_rate(pipeline, chosen.steps, seconds / 3))
            for _ in range(chosen.rounds):
                served.append(await load_of_clients.rate(http, seconds))
                bare.append(bare_rate(pipeline, chosen.steps, seconds / 3))
    ratios = [2 * rate / (before + after) for rate, before, after in zip(served, bare, bare[1:], strict=False)]
    return {
        "bare_pictures_per_s": bare,
        "served_pictures_per_s": served,
        "ratio": {"median": statistics.median(ratios), "of_rounds": ratios},
        **load_of_clients.figures(),
    }


def bare_rate(pipeline: Pipeline, steps: int, seconds: float) -> float:
    """Pictures a second of the pipeline alone."""
    pipeline.generate(Request(prompt=PROMPT, steps=1))
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        pipeline.generate(Request(prompt=PROMPT, steps=steps, seed=count))
        count += 1
    return count / (time.perf_counter() - started)


@asynccontextmanager
async def server_process(chosen: argparse.Namespace) -> AsyncIterator[httpx2.AsyncClient]:
    """A server that has drawn once, and a client for it."""
    words = ["serve", "--port", chosen.port, "--threads", chosen.threads, "--backend", "ort-cpu"]
    async with running_server(list(map(str, words)), chosen.port, chosen.clients) as http:
        await draw(http, {"prompt": PROMPT, "num_inference_steps": 1})
        yield http


@asynccontextmanager
async def running_server(words: list[str], port: int, clients: int) -> AsyncIterator[httpx2.AsyncClient]:
    """A server that takes requests, and a client for it. words: of its command line. Ends the program where it doesn't start."""
    limits = httpx2.Limits(max_connections=clients + 1, max_keepalive_connections=clients + 1)
    with TemporaryFile() as log:
        server = subprocess.Popen([sys.executable, "-m", "omnigen2_rt", *words], stderr=log)
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600, limits=limits) as http:
                await _wait_until_ready(http, server, log)
                yield http
        finally:
            server.terminate()
            server.wait()


async def _wait_until_ready(http: httpx2.AsyncClient, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    while True:
        if server.poll() is not None:
            log.seek(0)
            raise SystemExit(f"the server has ended: {log.read().decode(errors='replace').strip()}")
        try:
            if (await http.get("/ready")).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.1)


async def draw(http: httpx2.AsyncClient, body: dict[str, Any]) -> int:
    """Ask for a picture. Returns the status."""
    return (await http.post("/v1/images/generations", json=body)).status_code


class Load:
    """Clients that draw without a pause, and one that asks for the server's health meanwhile."""

    def __init__(self, clients: int, steps: int) -> None:
        self._clients, self._steps = clients, steps
        self._statuses: list[int] = []
        self._seconds: list[float] = []
        self._health: list[float] = []

    async def rate(self, http: httpx2.AsyncClient, seconds: float) -> float:
        """Pictures a second under load. Every request that was begun in the time is answered."""
        started, before = time.perf_counter(), len(self._statuses)
        ends = started + seconds
        await asyncio.gather(self._watch(http, ends), *(self._draw(http, ends, number) for number in range(self._clients)))
        return (len(self._statuses) - before) / (time.perf_counter() - started)

    def figures(self) -> dict[str, Any]:
        """The figures that the clients measured."""
        health = sorted(self._health)
        return {
            "pictures": len(self._statuses),
            "failed": sum(status != 200 for status in self._statuses),
            "wait_s": {"median": statistics.median(self._seconds), "longest": max(self._seconds)},
            "health_ms": {"median": statistics.median(health) * 1000, "p99": health[int(len(health) * 0.99)] * 1000},
        }

    async def _draw(self, http: httpx2.AsyncClient, ends: float, number: int) -> None:
        while time.perf_counter() < ends:
            started = time.perf_counter()
            body = {"prompt": PROMPT, "num_inference_steps": self._steps, "seed": number}
            self._statuses.append(await draw(http, body))
            self._seconds.append(time.perf_counter() - started)

    async def _watch(self, http: httpx2.AsyncClient, ends: float) -> None:
        while time.perf_counter() < ends:
            started = time.perf_counter()
            await http.get("/health")
            self._health.append(time.perf_counter() - started)
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
