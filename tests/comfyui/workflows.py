"""The workflows that ship: as the editor stores them, and in the form of ComfyUI's HTTP API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.comfyui.running import NODES, Prompt

FOLDER = NODES / "example_workflows"
NAMES = ("draw_and_edit", "reflect_and_ask")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("MarkdownNote", "Note")
"""Nodes that only the editor knows."""


def stored(name: str) -> dict[str, Any]:
    """A workflow as the editor stores it."""
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return workflow


def stored_for_api(name: str) -> Prompt:
    """A workflow in the form of the HTTP API, without the titles that the editor adds."""
    prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in prompt.items()}


def api_form(workflow: dict[str, Any], info_of: Callable[[str], dict[str, Any]]) -> Prompt:
    """The form of the HTTP API, derived as the editor derives it. info_of: a node as `/object_info` shows it."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        links = {each["name"]: sources[each["link"]] for each in node["inputs"] if each["link"] is not None}
        values = dict(widget_values(node, info_of(node["type"])))
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": {**values, **links}}
    return prompt


def widget_values(node: dict[str, Any], info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a node's widgets by name. A widget with a control for after the run is followed by the control's value."""
    values = iter(node["widgets_values"])
    for name, (kind, *options) in {**info["input"]["required"], **info["input"].get("optional", {})}.items():
        if isinstance(kind, list) or kind in WIDGETS:
            yield name, next(values)
            if options and options[0].get("control_after_generate"):
                next(values)
    assert not [*values], f"node {node['id']} has more values than widgets"


def files() -> list[Path]:
    """Every file in the folder of workflows."""
    return [path for path in FOLDER.rglob("*") if path.is_file()]
