"""Load on the server: clients that draw without a pause, beside the bare pipeline on the same threads.

The bare pipeline draws before and after, because a machine's speed drifts; the clients are a process of their own, which takes
processor time from the server. Prints JSON. Run as `python -m benchmarks.serving --seconds 120 --clients 50`.
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
from typing import Any

import httpx2

from omnigen2_rt import Request, load
from omnigen2_rt.commands.bench import machine_facts

PROMPT = "a large red circle on a blue background"


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=120.0)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--port", type=int, default=8765)
    chosen = options.parse_args()
    before = bare_rate(chosen.steps, chosen.threads, chosen.seconds / 8)
    served = asyncio.run(served_load(chosen))
    after = bare_rate(chosen.steps, chosen.threads, chosen.seconds / 8)
    bare = statistics.mean([before, after])
    ratio = served["pictures_per_s"] / bare
    figures = {"options": vars(chosen), "bare_pictures_per_s": bare, **served, "ratio": ratio, "load_averages": os.getloadavg()}
    print(json.dumps({**machine_facts(), **figures}, indent=1))


def bare_rate(steps: int, threads: int, seconds: float) -> float:
    """Pictures a second of the pipeline alone."""
    with load(backend="ort-cpu", threads=threads) as pipeline:
        pipeline.generate(Request(prompt=PROMPT, steps=1))
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            pipeline.generate(Request(prompt=PROMPT, steps=steps, seed=count))
            count += 1
        return count / (time.perf_counter() - started)


async def served_load(chosen: argparse.Namespace) -> dict[str, Any]:
    """The answers that the clients saw."""
    words = ["serve", "--port", chosen.port, "--threads", chosen.threads, "--backend", "ort-cpu"]
    server = subprocess.Popen([sys.executable, "-m", "omnigen2_rt", *map(str, words)], stderr=subprocess.DEVNULL)
    limits = httpx2.Limits(max_connections=chosen.clients + 1, max_keepalive_connections=chosen.clients + 1)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{chosen.port}", timeout=600, limits=limits) as http:
            await wait_until_ready(http)
            await draw(http, {"prompt": PROMPT, "num_inference_steps": 1})
            return await measure(http, chosen)
    finally:
        server.terminate()
        server.wait()


async def wait_until_ready(http: httpx2.AsyncClient) -> None:
    """Wait until the server takes requests."""
    while True:
        try:
            if (await http.get("/ready")).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.1)


async def draw(http: httpx2.AsyncClient, body: dict[str, Any]) -> int:
    """Ask for a picture. Returns the status."""
    return (await http.post("/v1/images/generations", json=body)).status_code


async def measure(http: httpx2.AsyncClient, chosen: argparse.Namespace) -> dict[str, Any]:
    """Draw with all clients until the time is over, and ask for the server's health meanwhile."""
    ends = time.perf_counter() + chosen.seconds
    statuses: list[int] = []
    seconds: list[float] = []
    health: list[float] = []

    async def client(number: int) -> None:
        while time.perf_counter() < ends:
            started = time.perf_counter()
            body = {"prompt": PROMPT, "num_inference_steps": chosen.steps, "seed": number}
            statuses.append(await draw(http, body))
            seconds.append(time.perf_counter() - started)

    async def watch() -> None:
        while time.perf_counter() < ends:
            started = time.perf_counter()
            await http.get("/health")
            health.append(time.perf_counter() - started)
            await asyncio.sleep(0.05)

    started = time.perf_counter()
    await asyncio.gather(watch(), *(client(number) for number in range(chosen.clients)))
    took = time.perf_counter() - started
    return {
        "pictures": len(statuses),
        "failed": sum(status != 200 for status in statuses),
        "pictures_per_s": len(statuses) / took,
        "wait_s": {"median": statistics.median(seconds), "longest": max(seconds)},
        "health_ms": {"median": statistics.median(health) * 1000, "p99": sorted(health)[int(len(health) * 0.99)] * 1000},
    }


if __name__ == "__main__":
    main()
