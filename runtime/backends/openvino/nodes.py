"""Questions about the nodes of OpenVINO's models, which the rewrites share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LAST_TWO_SWAPPED = [1, 0]


def kind(node: Any) -> str:
    """The operator's name: "MatMul", for example."""
    name: str = node.get_type_name()
    return name


def kinds(nodes: Iterable[Any]) -> str:
    """The operators of several nodes, or that there are none."""
    return ", ".join(map(kind, nodes)) or "none"


def inputs(node: Any) -> list[Any]:
    """The nodes that a node reads."""
    return [value.get_node() for value in node.input_values()]


def readers(output: Any) -> list[Any]:
    """The nodes that read an output."""
    return [target.get_node() for target in output.get_target_inputs()]


def output_name(output: Any) -> str:
    """The name of an output's node."""
    name: str = output.get_node().get_friendly_name()
    return name


def is_same_output(one: Any, other: Any) -> bool:
    """Whether two outputs are one."""
    return (one.get_node().get_name(), one.get_index()) == (other.get_node().get_name(), other.get_index())


def transposes_by(node: Any, order: list[int]) -> bool:
    """Whether a node is a Transpose with this constant order."""
    if kind(node) != "Transpose":
        return False
    axes = node.input_value(1).get_node()
    return kind(axes) == "Constant" and bool(axes.data.tolist() == order)


def replace(old: Any, new: Any) -> None:
    """Connect every reader of the old node's first output to the new one's."""
    for reader in list(old.output(0).get_target_inputs()):
        reader.replace_source_output(new.output(0))
