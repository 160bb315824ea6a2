"""The V3 schema: types with inputs and outputs, schemas, nodes.

Takes no argument that ComfyUI 0.3.64 does not take. Outputs have no ids here: there, no output may have the id of an input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class Input:
    """A socket of a node."""

    io_type = ""

    def __init__(self, id: str, *, optional: bool = False, tooltip: str | None = None, **options: Any) -> None:
        self.id = id
        self.optional = optional
        self.options = {**options, "tooltip": tooltip}

    def as_info(self) -> tuple[str, dict[str, Any]]:
        """The input as `/object_info` shows it."""
        return self.io_type, {name: value for name, value in self.options.items() if value is not None}


class Output:
    """A socket of a node."""

    io_type = ""

    def __init__(self, *, display_name: str | None = None, tooltip: str | None = None, is_output_list: bool = False) -> None:
        self.display_name = display_name
        self.tooltip = tooltip
        self.is_output_list = is_output_list


def Custom(io_type: str) -> Any:
    """A type of one's own: it has sockets and no widget."""
    own_input = type("Input", (Input,), {"io_type": io_type})
    own_output = type("Output", (Output,), {"io_type": io_type})
    return type(io_type, (), {"io_type": io_type, "Input": own_input, "Output": own_output})


def _with_widget(io_type: str, *allowed: str) -> Any:
    """A type whose inputs are widgets with these options."""

    class WidgetInput(Input):
        def __init__(self, id: str, *, default: Any, tooltip: str | None = None, optional: bool = False, **options: Any) -> None:
            if unknown := options.keys() - {*allowed}:
                raise TypeError(f"a {io_type} input has no {min(unknown)}")
            super().__init__(id, optional=optional, tooltip=tooltip, default=default, **options)

    WidgetInput.io_type = io_type
    kind = Custom(io_type)
    kind.Input = WidgetInput
    return kind


Image = Custom("IMAGE")
Boolean = _with_widget("BOOLEAN", "label_on", "label_off")
Int = _with_widget("INT", "min", "max", "step", "control_after_generate", "display_mode")
Float = _with_widget("FLOAT", "min", "max", "step", "round", "display_mode")
String = _with_widget("STRING", "multiline", "placeholder", "dynamic_prompts")
Combo = _with_widget("COMBO", "options", "control_after_generate")


class _ComboInput(Combo.Input):  # type: ignore[name-defined, misc]
    def __init__(self, id: str, options: list[str], *, default: str, tooltip: str | None = None) -> None:
        super().__init__(id, default=default, tooltip=tooltip, options=options)


Combo.Input = _ComboInput


@dataclass
class Schema:
    """A node as it is shown."""

    node_id: str
    display_name: str
    category: str
    inputs: Sequence[Input] = field(default_factory=list)
    outputs: Sequence[Output] = field(default_factory=list)
    description: str = ""

    def validate(self) -> None:
        """Raises ValueError for an id that occurs twice."""
        twice = [name for name, count in Counter(each.id for each in self.inputs).items() if count > 1]
        if twice:
            raise ValueError(f"{twice} occur twice")


class ComfyNode:
    """The base of nodes. They are never instantiated."""

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The node's schema."""
        schema: Schema = cls.define_schema()  # type: ignore[attr-defined]
        schema.validate()
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """The node as `/object_info` shows it."""
        schema = cls.GET_SCHEMA()
        required = {each.id: each.as_info() for each in schema.inputs if not each.optional}
        optional = {each.id: each.as_info() for each in schema.inputs if each.optional}
        return {
            "input": {"required": required, "optional": optional},
            "output": [each.io_type for each in schema.outputs],
            "output_is_list": [each.is_output_list for each in schema.outputs],
            "output_name": [each.display_name for each in schema.outputs],
            "name": schema.node_id,
            "display_name": schema.display_name,
            "category": schema.category,
            "description": schema.description,
        }


class NodeOutput:
    """The outputs of a node that has run."""

    def __init__(self, *args: Any, ui: dict[str, Any] | None = None) -> None:
        self.args = args
        self.ui = ui
