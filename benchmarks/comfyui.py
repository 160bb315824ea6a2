"""The shipped workflows on a real ComfyUI, by its HTTP API: pictures beside those of `omnigen2 generate`, progress, an interrupt.

Starts ComfyUI from a checkout, on its CPU device, with a base folder of its own whose `custom_nodes` links to `comfyui/`.
Prints JSON. Run it in ComfyUI's environment, with omnigen2-rt installed there: `python -m benchmarks.comfyui path/to/ComfyUI`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from omnigen2_rt import ChatSettings, Pipeline, Request, load
from omnigen2_rt.commands.bench import machine_facts

ROOT = Path(__file__).resolve().parents[1]
NODES = ROOT / "comfyui"
PREVIEW_IMAGE_WITH_METADATA = 4
START_S, RUN_S = 180, 300
INTERRUPTED_STEPS, INTERRUPT_AFTER = 200, 20

Prompt = dict[str, dict[str, Any]]


@dataclass
class Run:
    """A workflow's way through ComfyUI.

    progress: how often each node reported a step.
    previews: the previews of each node, as their sizes.
    finished: the event that ended it.
    outputs: what its history holds, by node.
    """

    seconds: float = 0.0
    progress: dict[str, int] = field(default_factory=dict)
    previews: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    finished: str = ""
    message: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)


class Client:
    """A client of ComfyUI: it queues workflows and follows their events."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self._http = http
        self._socket = socket
        self._name = name

    async def run(self, prompt: Prompt, interrupt_after: int | None = None) -> tuple[Run, dict[str, Any]]:
        """Queue a workflow and follow it to its end. interrupt_after: the step after which the interrupt button is pressed."""
        run, started, interrupt = Run(), time.perf_counter(), dict[str, Any]()
        async with self._http.post("/prompt", json={"prompt": prompt, "client_id": self._name}) as answer:
            queued = await answer.json()
            assert answer.status == 200, queued
        while not run.finished:
            message = await self._socket.receive(timeout=RUN_S)
            if message.type == aiohttp.WSMsgType.BINARY:
                _take_preview(run, message.data)
            elif message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["data"].get("prompt_id") == queued["prompt_id"]:
                    _take_event(run, event)
            steps = max(run.progress.values(), default=0)
            if interrupt_after is not None and not interrupt and steps >= interrupt_after:
                interrupt = {"pressed": time.perf_counter(), "steps_before": steps}
                await self._http.post("/interrupt", json={})
        run.seconds = time.perf_counter() - started
        if interrupt:
            interrupt["milliseconds"] = (time.perf_counter() - interrupt.pop("pressed")) * 1000
            interrupt["steps_until_the_end"] = max(run.progress.values()) - interrupt["steps_before"]
        if run.finished == "execution_success":
            run.outputs = await self._outputs(queued["prompt_id"])
        return run, interrupt

    async def pictures(self, run: Run) -> dict[str, list[NDArray[np.uint8]]]:
        """The saved pictures of a workflow, by node."""
        nodes = {node: output["images"] for node, output in run.outputs.items() if "images" in output}
        return {node: [await self._picture(file) for file in files] for node, files in nodes.items()}

    async def _picture(self, file: dict[str, str]) -> NDArray[np.uint8]:
        async with self._http.get("/view", params=file) as answer:
            return np.asarray(Image.open(io.BytesIO(await answer.read())))

    async def _outputs(self, prompt_id: str) -> dict[str, Any]:
        """The outputs in the history, which is written a little after the last event."""
        while True:
            async with self._http.get(f"/history/{prompt_id}") as answer:
                history = await answer.json()
            if prompt_id in history:
                outputs: dict[str, Any] = history[prompt_id]["outputs"]
                return outputs
            await asyncio.sleep(0.01)


def _take_event(run: Run, event: dict[str, Any]) -> None:
    data = event["data"]
    if event["type"] == "progress":
        run.progress[data["node"]] = run.progress.get(data["node"], 0) + 1
    elif event["type"] == "execution_cached":
        run.cached = sorted(data["nodes"])
    elif event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
        run.finished, run.message = event["type"], data.get("exception_message", "").strip()


def _take_preview(run: Run, data: bytes) -> None:
    if int.from_bytes(data[:4], "big") == PREVIEW_IMAGE_WITH_METADATA:
        length = int.from_bytes(data[4:8], "big")
        metadata = json.loads(data[8 : 8 + length])
        size = Image.open(io.BytesIO(data[8 + length :])).size
        run.previews.setdefault(metadata["node_id"], []).append(size)


@asynccontextmanager
async def comfyui(checkout: Path, port: int, base: Path) -> AsyncIterator[tuple[str, int]]:
    """A ComfyUI with our nodes: its address and its process id."""
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / "omnigen2-rt").symlink_to(NODES, target_is_directory=True)
    database = f"sqlite:///{base / 'comfyui.db'}"
    options = ["--cpu", "--disable-api-nodes", "--disable-auto-launch", "--base-directory", base, "--database-url", database]
    words = [sys.executable, "main.py", *options, "--listen", "127.0.0.1", "--port", port]
    log = (base / "log.txt").open("wb")
    server = subprocess.Popen([str(word) for word in words], cwd=checkout, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        await _wait_until_ready(address, server, base / "log.txt")
        yield address, server.pid
    finally:
        server.terminate()
        server.wait(30)


async def _wait_until_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    async with aiohttp.ClientSession(address) as http:
        while time.monotonic() < end and server.poll() is None:
            try:
                async with http.get("/system_stats"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
    raise RuntimeError(f"ComfyUI did not start; its last lines:\n{log.read_text(errors='replace')[-3000:]}")


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[tuple[Client, aiohttp.ClientSession]]:
    """A client that takes previews as ComfyUI's page does."""
    name = uuid.uuid4().hex
    async with aiohttp.ClientSession(address) as http, http.ws_connect("/ws", params={"clientId": name}) as socket:
        await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        yield Client(http, socket, name), http


def workflow(name: str) -> Prompt:
    """A shipped workflow in the form of the HTTP API."""
    prompt: Prompt = json.loads((NODES / "example_workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return prompt


def node_of(prompt: Prompt, kind: str, index: int = 0) -> tuple[str, dict[str, Any]]:
    """The number and the inputs of the first, second, … node of a kind."""
    found = [(number, node["inputs"]) for number, node in prompt.items() if node["class_type"] == kind]
    return found[index]


def command_pictures(prompt: Prompt, folder: Path) -> list[NDArray[np.uint8]]:
    """The pictures that `omnigen2 generate` draws for the drawing and the edit of the first workflow."""
    files: list[Path] = []
    for index in range(2):
        inputs = node_of(prompt, "OmniGen2RTGenerate", index)[1]
        options = {name: inputs[name] for name in ("steps", "text_guidance", "image_guidance", "seed")}
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        images = [word for file in files for word in ("--image", str(file))]
        files.append(folder / f"{index}.png")
        command = [sys.executable, "-m", "omnigen2_rt", "generate", inputs["prompt"], *images, *words, "--out", str(files[-1])]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return [np.asarray(Image.open(file)) for file in files]


def own_reflection(pipeline: Pipeline, prompt: Prompt) -> tuple[NDArray[np.uint8], list[str]]:
    """The picture and the answers that the library gives for the second workflow."""
    reflect = node_of(prompt, "OmniGen2RTReflect")[1]
    first, second = (node_of(prompt, "OmniGen2RTChat", index)[1] for index in range(2))
    fields = {name: reflect[name] for name in ("prompt", "steps", "text_guidance", "image_guidance", "seed")}
    best = pipeline.reflect(Request(**fields), rounds=reflect["rounds"]).result.images
    talk, settings = pipeline.start_chat(), ChatSettings(seed=first["seed"], may_draw=first["may_draw"])
    return np.asarray(best[0]), [talk.ask(first["prompt"], best, settings).text, talk.ask(second["prompt"], (), settings).text]


async def draw_and_edit(client: Client, folder: Path) -> dict[str, Any]:
    """The first workflow twice: the second time from ComfyUI's cache."""
    prompt = workflow("draw_and_edit")
    (first, _), (again, _) = await client.run(prompt), await client.run(prompt)
    assert first.finished == "execution_success", first.message
    drawn = [pictures[0] for _, pictures in sorted((await client.pictures(first)).items())]
    expected = command_pictures(prompt, folder)
    return {
        "seconds": first.seconds,
        "seconds_again": again.seconds,
        "cached_again": again.cached,
        "progress_events": first.progress,
        "previews": {node: [len(sizes), sizes[-1]] for node, sizes in first.previews.items()},
        "pictures_equal_the_commands": [bool(np.array_equal(a, b)) for a, b in zip(drawn, expected, strict=True)],
    }


async def reflect_and_ask(client: Client) -> dict[str, Any]:
    """The second workflow, beside the library."""
    prompt = workflow("reflect_and_ask")
    run, _ = await client.run(prompt)
    assert run.finished == "execution_success", run.message
    ((best,),) = (await client.pictures(run)).values()
    texts = [text for output in run.outputs.values() for text in output.get("text", ())]
    with load() as pipeline:
        picture, answers = own_reflection(pipeline, prompt)
    return {
        "seconds": run.seconds,
        "progress_events": run.progress,
        "previews": {node: [len(sizes), sizes[-1]] for node, sizes in run.previews.items()},
        "texts": texts,
        "picture_equals_the_librarys": bool(np.array_equal(best, picture)),
        "answers_equal_the_librarys": {*answers} <= {*texts},
    }


async def interrupted(client: Client) -> dict[str, Any]:
    """The first workflow with many steps, interrupted; and the next run after it."""
    prompt = workflow("draw_and_edit")
    for index in range(2):
        node_of(prompt, "OmniGen2RTGenerate", index)[1].update(steps=INTERRUPTED_STEPS, seed=8)
    run, interrupt = await client.run(prompt, interrupt_after=INTERRUPT_AFTER)
    after, _ = await client.run(workflow("draw_and_edit"))
    return {**interrupt, "steps": INTERRUPTED_STEPS, "ended_with": run.finished, "next_run_ended_with": after.finished}


async def refused(client: Client) -> str:
    """The message that ComfyUI shows for a picture that is too small."""
    prompt = workflow("draw_and_edit")
    node_of(prompt, "OmniGen2RTGenerate")[1].update(width=8)
    return (await client.run(prompt))[0].message


async def measure(checkout: Path, port: int) -> dict[str, Any]:
    """Everything, on one ComfyUI."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        async with comfyui(checkout, port, Path(folder) / "base") as (address, process), connected(address) as (client, http):
            start_s = time.perf_counter() - started
            async with http.get("/system_stats") as answer:
                stats = (await answer.json())["system"]
            figures = {
                "draw_and_edit": await draw_and_edit(client, Path(folder)),
                "reflect_and_ask": await reflect_and_ask(client),
                "interrupt": await interrupted(client),
                "error_of_width_8": await refused(client),
            }
            status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    versions = {"comfyui": stats["comfyui_version"], "frontend": stats["required_frontend_version"], "torch": torch.__version__}
    return {"comfyui": versions, "start_s": start_s, **figures, "peak_bytes": peak_kb * 1024}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("checkout", type=Path, help="a checkout of ComfyUI")
    options.add_argument("--port", type=int, default=8189)
    options.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = options.parse_args()
    figures = asyncio.run(measure(chosen.checkout.resolve(), chosen.port))
    text = json.dumps({**machine_facts(), **figures, "load_averages": os.getloadavg()}, indent=1, ensure_ascii=False)
    print(text)
    if chosen.json is not None:
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
