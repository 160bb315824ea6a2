"""What the rewrites of OpenVINO's models share."""

from __future__ import annotations

from typing import Any

LAST_TWO_SWAPPED = [1, 0]


def replace(old: Any, new: Any) -> None:
    """Let everything that reads the old node's first output read the new one's."""
    for consumer in list(old.output(0).get_target_inputs()):
        consumer.replace_source_output(new.output(0))


def same(one: Any, other: Any) -> bool:
    """Whether two outputs are one."""
    return (one.get_node().get_name(), one.get_index()) == (other.get_node().get_name(), other.get_index())


def transposed(node: Any) -> Any:
    """The node whose last two axes, of two, this one swaps; None where it does anything else."""
    if node.get_type_name() != "Transpose":
        return None
    order = node.input_value(1).get_node()
    swaps = order.get_type_name() == "Constant" and order.data.tolist() == LAST_TWO_SWAPPED
    return node.input_value(0).get_node() if swaps else None
