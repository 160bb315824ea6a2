"""Replicas behind Ray compared with the server's own engine and the bare pipeline on the same processors, and what Ray costs.

Each way of serving is a server of its own, started in turn, in several rounds, because a machine's speed drifts. For the
throughput, clients draw without a pause; for the time of a request, one client asks for pictures of one step, one after another.
Ray runs on this machine alone. Prints JSON. Run as `python -m benchmarks.ray_replicas`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx2

from benchmarks.serving import PROMPT, Load, bare_rate, draw, running_server
from omnigen2_rt import load
from omnigen2_rt.commands.bench import machine_facts

QUICK_REQUESTS = 60


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of serving. options: those of `omnigen2 serve`. replicas: how many must run; 0 without Ray."""

    name: str
    options: tuple[str, ...]
    replicas: int = 0


def ways(processors: int) -> tuple[Way, ...]:
    """The ways that are compared: all have the same number of processors, but for a single replica with one thread."""
    ray, each = ("--ray", "local"), ("--threads", "1", "--cpus-per-replica", "1")
    whole = ("--threads", str(processors))
    return (
        Way(name=f"no Ray, {processors} threads", options=whole),
        Way(
            name=f"Ray, 1 replica of {processors} threads",
            options=(*ray, *whole, "--cpus-per-replica", str(processors)),
            replicas=1,
        ),
        Way(name="Ray, 1 replica of 1 thread", options=(*ray, *each), replicas=1),
        Way(
            name=f"Ray, {processors} replicas of 1 thread",
            options=(*ray, *each, "--min-replicas", str(processors)),
            replicas=processors,
        ),
    )


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=30.0, help="of drawing, each way and round")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--processors", type=int, default=2)
    options.add_argument("--port", type=int, default=8766)
    chosen = options.parse_args()
    compared = ways(chosen.processors)
    bare: list[float] = []
    rounds: list[dict[str, dict[str, Any]]] = []
    for _ in range(chosen.rounds):
        with load(backend="ort-cpu", threads=chosen.processors) as pipeline:
            bare.append(bare_rate(pipeline, chosen.steps, chosen.seconds / 3))
        rounds.append({way.name: asyncio.run(figures(way, chosen)) for way in compared})
    print(json.dumps({**machine_facts(), "bare_pictures_per_s": bare, **summary(rounds, chosen)}, indent=1))


def summary(rounds: list[dict[str, dict[str, Any]]], chosen: argparse.Namespace) -> dict[str, Any]:
    """The median of the rounds for each way, what Ray adds to a request, and all rounds."""
    names = list(rounds[0])
    medians = {
        name: {key: statistics.median(each[name][key] for each in rounds) for key in ("pictures_per_s", "request_ms")}
        for name in names
    }
    rates = [medians[name]["pictures_per_s"] for name in names]
    return {
        "options": vars(chosen),
        "ray": version("ray"),
        "medians": medians,
        "throughput_against_no_ray": {name: rate / rates[0] for name, rate in zip(names, rates, strict=True)},
        "ray_adds_ms": medians[names[1]]["request_ms"] - medians[names[0]]["request_ms"],
        "rounds": rounds,
        "load_averages": os.getloadavg(),
    }


async def figures(way: Way, chosen: argparse.Namespace) -> dict[str, Any]:
    """The figures of a way: its throughput, and the milliseconds of a request of one step."""
    words = ["serve", "--port", str(chosen.port), "--backend", "ort-cpu", *way.options]
    started = time.perf_counter()
    async with running_server(words, chosen.port, chosen.clients) as http:
        start_s = time.perf_counter() - started
        await warm_up(http, way)
        clients = Load(chosen.clients, chosen.steps)
        rate = await clients.rate(http, chosen.seconds)
        return {"start_s": start_s, "pictures_per_s": rate, **clients.figures(), "request_ms": await request_ms(http)}


async def warm_up(http: httpx2.AsyncClient, way: Way) -> None:
    """Open every engine: draw until all replicas run, and then often enough for each to draw."""
    body = {"prompt": PROMPT, "num_inference_steps": 1}
    while way.replicas and await running(http) < way.replicas:
        await asyncio.sleep(0.1)
    await asyncio.gather(*(draw(http, body) for _ in range(8 * max(1, way.replicas))))


async def running(http: httpx2.AsyncClient) -> int:
    """Replicas that take requests."""
    models = (await http.get("/v1/capabilities")).json()["models"]
    return int(models["nano"]["replicas"]["running"])


async def request_ms(http: httpx2.AsyncClient) -> float:
    """The median of requests of one step, one after another."""
    seconds = []
    for seed in range(QUICK_REQUESTS):
        started = time.perf_counter()
        await draw(http, {"prompt": PROMPT, "num_inference_steps": 1, "guidance_scale": 1, "seed": seed})
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
