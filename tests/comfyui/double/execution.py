"""Executes a workflow in the form of ComfyUI's HTTP API, with its cache of outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import nodes
from comfy.model_management import InterruptProcessingException, throw_exception_if_processing_interrupted
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker, is_link

Prompt = dict[str, dict[str, Any]]
Outputs = list[list[Any]]
"""For each output of a node, the list of its values."""


class PromptExecutor:
    """Runs workflows one after another. The outputs of nodes that have not changed are taken from the last run."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._cache: dict[str, Outputs] = {}
        self.history_result: dict[str, Any] = {}

    def execute(self, prompt: Prompt, prompt_id: str, extra_data: dict[str, Any], execute_outputs: list[str]) -> None:
        """Run a workflow."""
        nodes.interrupt_processing(False)
        self._server.client_id = extra_data["client_id"]
        self.history_result = {"outputs": {}}
        keys = {node_id: _key(prompt, node_id) for node_id in prompt}
        self._cache = {key: outputs for key, outputs in self._cache.items() if key in keys.values()}
        for node_id in _in_order(prompt, execute_outputs):
            if keys[node_id] in self._cache:
                continue
            try:
                self._run(prompt, node_id, keys)
            except InterruptProcessingException:
                self._send("execution_interrupted", node_id=node_id)
                return
            except Exception as error:
                self._send("execution_error", node_id=node_id, exception_message=f"{error}\n")
                return
        self._send("execution_success")

    def _run(self, prompt: Prompt, node_id: str, keys: dict[str, str]) -> None:
        throw_exception_if_processing_interrupted()
        self._send("executing", node=node_id)
        node = nodes.NODE_CLASS_MAPPINGS[prompt[node_id]["class_type"]]
        results = [self._call(node, node_id, inputs) for inputs in self._inputs(prompt, node_id, keys)]
        outputs: Outputs = []
        for index, is_list in enumerate(_output_is_list(node)):
            values = [result[index] for result in results]
            outputs.append([each for value in values for each in (value if is_list and isinstance(value, list) else [value])])
        self._cache[keys[node_id]] = outputs

    def _call(self, node: Any, node_id: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        blockers = [value for value in inputs.values() if isinstance(value, ExecutionBlocker)]
        if blockers:
            return (blockers[0],) * len(_output_is_list(node))
        if _is_v3(node):
            result: tuple[Any, ...] = node.execute(**inputs).args
            return result
        self.history_result["outputs"][node_id] = node().run(**inputs)
        return ()

    def _inputs(self, prompt: Prompt, node_id: str, keys: dict[str, str]) -> Iterator[dict[str, Any]]:
        """The inputs of a node, once for each item of the longest list among them."""
        lists = {
            name: self._cache[keys[value[0]]][value[1]] if is_link(value) else [value]
            for name, value in prompt[node_id]["inputs"].items()
        }
        for index in range(max((len(values) for values in lists.values()), default=1)):
            yield {name: values[min(index, len(values) - 1)] for name, values in lists.items()}

    def _send(self, event: str, **data: Any) -> None:
        self._server.send_sync(event, data, self._server.client_id)


async def validate_prompt(prompt_id: str, prompt: Prompt, partial_execution_list: Any) -> tuple[bool, Any, list[str], Any]:
    """Whether a workflow may be queued, what is wrong with it, and its output nodes."""
    problems = {node_id: list(_problems(prompt, node_id)) for node_id in prompt}
    found = {node_id: {"errors": errors} for node_id, errors in problems.items() if errors}
    outputs = [node_id for node_id, node in prompt.items() if not _is_v3(nodes.NODE_CLASS_MAPPINGS[node["class_type"]])]
    return not found, None, outputs, found


def _problems(prompt: Prompt, node_id: str) -> Iterator[dict[str, str]]:
    node, inputs = nodes.NODE_CLASS_MAPPINGS[prompt[node_id]["class_type"]], prompt[node_id]["inputs"]
    required, optional = _input_info(node)
    for name, (kind, options) in {**required, **optional}.items():
        value = inputs.get(name)
        if name not in inputs and name in required:
            yield {"type": "required_input_missing", "details": name}
        elif is_link(value):
            source = nodes.NODE_CLASS_MAPPINGS[prompt[value[0]]["class_type"]].GET_NODE_INFO_V1()["output"][value[1]]
            if kind not in ("*", source):
                yield {"type": "return_type_mismatch", "details": name}
        elif "min" in options and not options["min"] <= value <= options["max"]:
            yield {"type": "value_smaller_than_min" if value < options["min"] else "value_bigger_than_max", "details": name}


def _input_info(node: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    if not _is_v3(node):
        return node.INPUT_TYPES()["required"], {}
    shown = node.GET_NODE_INFO_V1()["input"]
    return shown["required"], shown["optional"]


def _in_order(prompt: Prompt, wanted: list[str]) -> list[str]:
    """The nodes that the outputs need, each behind those that it needs."""
    order: list[str] = []

    def visit(node_id: str) -> None:
        for value in prompt[node_id]["inputs"].values():
            if is_link(value):
                visit(value[0])
        if node_id not in order:
            order.append(node_id)

    for node_id in wanted:
        visit(node_id)
    return order


def _key(prompt: Prompt, node_id: str) -> str:
    """All that a node's outputs depend on: its class, its inputs, its fingerprint, and the same of all before it."""
    node = prompt[node_id]
    inputs = {
        name: f"{_key(prompt, value[0])}/{value[1]}" if is_link(value) else value for name, value in node["inputs"].items()
    }
    kind = nodes.NODE_CLASS_MAPPINGS[node["class_type"]]
    fingerprint = ""
    if hasattr(kind, "fingerprint_inputs"):
        constants = {name: None if is_link(value) else value for name, value in node["inputs"].items()}
        try:
            fingerprint = kind.fingerprint_inputs(**constants)
        except Exception:  # a node whose fingerprint fails is run
            fingerprint = str(object())
    return json.dumps([node["class_type"], inputs, fingerprint, "" if _is_v3(kind) else node_id])


def _is_v3(node: Any) -> bool:
    return issubclass(node, io.ComfyNode)


def _output_is_list(node: Any) -> list[bool]:
    result: list[bool] = node.GET_NODE_INFO_V1()["output_is_list"] if _is_v3(node) else []
    return result
