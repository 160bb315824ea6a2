"""ComfyUI in this process, with this repository's nodes: its double, or a checkout of the real one."""

from __future__ import annotations

import asyncio
import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NODES = ROOT / "comfyui"
DOUBLE = Path(__file__).resolve().parent / "double"
CHECKOUT = os.environ.get("OMNIGEN2_COMFYUI")
"""A checkout of ComfyUI, to run the same tests on."""
CLIENT = "the tests"

Prompt = dict[str, dict[str, Any]]


@dataclass
class Server:
    """The server of an executor: it keeps the events for its clients.

    events: in order, (name, data).
    on_event: called with each, as it is sent.
    """

    client_id: str | None = None
    last_node_id: str | None = None
    sockets_metadata: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[Any, Any]] = field(default_factory=list)
    on_event: Callable[[Any, Any], object] | None = None

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Keep an event; the executor calls this."""
        self.events.append((event, data))
        if self.on_event is not None:
            self.on_event(event, data)


@dataclass(frozen=True)
class Run:
    """A workflow that has run."""

    events: list[tuple[Any, Any]]
    outputs: dict[str, Any]

    def of(self, name: Any) -> list[Any]:
        """The data of the events of one name."""
        return [data for event, data in self.events if event == name]

    @property
    def ran(self) -> list[str]:
        """The nodes that ran, in order."""
        return [data["node"] for data in self.of("executing") if data["node"] is not None]

    def progress_of(self, node_id: str) -> list[tuple[int, int]]:
        """The node's progress, each time that it was reported: (value, total)."""
        return [(data["value"], data["max"]) for data in self.of("progress") if data["node"] == node_id]

    def previews_of(self, node_id: str) -> list[tuple[str, Image.Image, int]]:
        """The node's previews: file format, picture, and the largest side at which it is shown."""
        return [data["preview"] for data in self.of("progress") if data["node"] == node_id and data["preview"] is not None]

    @property
    def error(self) -> str:
        """The message of the node that failed."""
        (data,) = self.of("execution_error")
        message: str = data["exception_message"]
        return message

    @property
    def is_interrupted(self) -> bool:
        return bool(self.of("execution_interrupted"))


class Comfy:
    """ComfyUI with the nodes of a folder."""

    def __init__(self, output: Path, models: Path) -> None:
        self.output = output
        self.models = models
        self._numbers = count()
        self._load(output, models)
        self.server = Server()
        self._executor = self.execution.PromptExecutor(self.server)
        import_module("comfy.utils").set_progress_bar_global_hook(self._report)

    def _load(self, output: Path, models: Path) -> None:
        self.nodes, self.execution, self.folder_paths = map(import_module, ("nodes", "execution", "folder_paths"))
        self.folder_paths.set_output_directory(str(output))
        self.folder_paths.models_dir = str(models)
        if CHECKOUT:  # the double has this node from the start
            extra = os.path.join(CHECKOUT, "comfy_extras", "nodes_preview_any.py")
            assert asyncio.run(self.nodes.load_custom_node(extra, module_parent="comfy_extras"))
        assert asyncio.run(self.nodes.load_custom_node(str(NODES), module_parent="custom_nodes"))

    def _report(self, value: int, total: int, preview: Any, node_id: str | None = None) -> None:
        """Send progress as ComfyUI's server does; progress bars call this."""
        running = Run(self.server.events, {}).ran[-1]
        self.server.send_sync("progress", {"node": node_id or running, "value": value, "max": total, "preview": preview})

    def module(self, name: str) -> Any:
        """One of the folder's own modules, as ComfyUI has imported it."""
        return sys.modules[f"{str(NODES).replace('.', '_x_')}.{name}"]

    def info(self, node_id: str) -> dict[str, Any]:
        """A node as `/object_info` shows it."""
        info: dict[str, Any] = self.nodes.NODE_CLASS_MAPPINGS[node_id].GET_NODE_INFO_V1()
        return info

    def problems(self, prompt: Prompt) -> dict[str, Any]:
        """The reasons why a workflow can't be queued, by node."""
        problems: dict[str, Any] = asyncio.run(self.execution.validate_prompt("a prompt", prompt, None))[3]
        return problems

    def run(self, prompt: Prompt, on_event: Callable[[Any, Any], object] | None = None) -> Run:
        """Queue a workflow and wait for its end."""
        prompt = copy.deepcopy(prompt)  # as if it came as JSON: ComfyUI writes fingerprints into it
        valid, error, outputs, problems = asyncio.run(self.execution.validate_prompt("a prompt", prompt, None))
        assert valid, (error, problems)
        self.server.events, self.server.on_event = [], on_event
        with warnings.catch_warnings():
            if CHECKOUT:
                warnings.simplefilter("ignore")
            self._executor.execute(prompt, f"prompt {next(self._numbers)}", {"client_id": CLIENT}, outputs)
        return Run(self.server.events, self._executor.history_result["outputs"])

    def interrupt(self) -> None:
        """Press the interrupt button."""
        self.nodes.interrupt_processing()

    def forget(self) -> None:
        """Free the node cache, as its button does."""
        self._executor = self.execution.PromptExecutor(self.server)


@contextmanager
def comfyui(output: Path, models: Path) -> Iterator[Comfy]:
    """ComfyUI, importable until the end of the block."""
    place = CHECKOUT or str(DOUBLE)
    sys.modules.pop("comfy", None)  # the root's own package, under the folder's name, in a clone that is called that
    before = {*sys.modules}
    sys.path.append(place)  # last: a checkout has modules called tests and utils
    try:
        with warnings.catch_warnings():
            if CHECKOUT:
                warnings.simplefilter("ignore")
            import_module("comfy.cli_args").args.cpu = True  # before its engine looks for a GPU
            comfy = Comfy(output, models)
        yield comfy
    finally:
        sys.path.remove(place)
        for name in {*sys.modules} - before:
            if name.startswith((str(NODES), "comfy")) or name in ("nodes", "execution", "folder_paths"):
                del sys.modules[name]
