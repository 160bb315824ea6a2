"""The schemas of the nodes: their inputs have the runtime's own defaults, ranges and documentation."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from omnigen2_rt import ChatSettings, Request, RequestError
from omnigen2_rt.runtime.backends import BACKENDS
from tests.comfyui.running import Comfy

NODE_IDS = ("LoadBundle", "Generate", "Chat", "Reflect", "DrawingOptions", "AnswerOptions")
OTHER_NAMES = {"width_px": "width", "height_px": "height", "images_per_prompt": "batch_size", "images": "image_1"}
LEFT_OUT = {"align_size", "latents", "timesteps"}
"""Fields of Request that no node has; comfyui/README.md says so."""


def inputs_of(comfy: Comfy, node: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The inputs of a node by name: type and options."""
    shown = comfy.info(f"OmniGen2RT{node}")["input"]
    return {**shown["required"], **shown.get("optional", {})}


def is_widget(kind: str) -> bool:
    return kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@pytest.mark.parametrize("node", NODE_IDS)
def test_schema_input_and_output_ids_are_unique(comfy: Comfy, node: str) -> None:
    """ComfyUI 0.3.64 refuses a node whose output has the id of an input; outputs without an id get one of their own."""
    schema = comfy.nodes.NODE_CLASS_MAPPINGS[f"OmniGen2RT{node}"].GET_SCHEMA()
    ids = [each.id for each in (*schema.inputs, *schema.outputs) if getattr(each, "id", None)]
    assert len(ids) == len({*ids})


@pytest.mark.parametrize("node", NODE_IDS)
def test_schema_widgets_all_have_a_tooltip_in_plain_text(comfy: Comfy, node: str) -> None:
    for name, (kind, options) in inputs_of(comfy, node).items():
        if is_widget(kind):
            assert options["tooltip"].strip() and "`" not in options["tooltip"], name


def test_schemas_of_drawing_nodes_have_every_field_of_a_request(comfy: Comfy) -> None:
    """A field that joins Request joins a node, or the list of what they leave out."""
    names = {*inputs_of(comfy, "Generate"), *inputs_of(comfy, "DrawingOptions")}
    fields = {field.name for field in dataclasses.fields(Request)} - LEFT_OUT - {"cfg_range"}
    assert {OTHER_NAMES.get(field, field) for field in fields} <= names
    assert {"cfg_start", "cfg_end"} <= names and not LEFT_OUT & names


def test_schemas_of_chat_nodes_have_every_setting_of_an_answer(comfy: Comfy) -> None:
    names = {*inputs_of(comfy, "Chat"), *inputs_of(comfy, "AnswerOptions")}
    assert {field.name for field in dataclasses.fields(ChatSettings)} - {"request"} <= names


@pytest.mark.parametrize("node", ["Generate", "Chat", "Reflect", "DrawingOptions"])
def test_schema_defaults_are_those_of_a_request(comfy: Comfy, node: str) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Request)}
    shown = inputs_of(comfy, node)
    own = {name for name in shown if name in defaults and is_widget(shown[name][0])} - {"prompt", "cache"}
    assert own
    assert {name: shown[name][1]["default"] for name in own} == {name: defaults[name] for name in own}


@pytest.mark.parametrize("node", ["Generate", "Chat", "Reflect", "DrawingOptions"])
def test_schema_ranges_are_those_of_a_request(comfy: Comfy, node: str) -> None:
    """Both ends of a range are allowed, and what lies beyond is refused."""
    fields = {field.name for field in dataclasses.fields(Request)}
    for name, (kind, options) in inputs_of(comfy, node).items():
        if kind in ("INT", "FLOAT") and name in fields:
            for end in ("min", "max"):
                Request(prompt="", **{name: options[end]})
            for beyond in (options["min"] - 1, options["max"] * 2 + 1):
                with pytest.raises(RequestError):
                    Request(prompt="", **{name: beyond})


@pytest.mark.parametrize("node", ["Generate", "Chat", "Reflect"])
def test_schema_seed_is_as_comfyui_has_it(comfy: Comfy, node: str) -> None:
    kind, options = inputs_of(comfy, node)["seed"]
    assert (kind, options["min"], options["max"], options["control_after_generate"]) == ("INT", 0, 2**64 - 1, True)


@pytest.mark.parametrize("node", ["Generate", "Chat", "Reflect"])
def test_schema_takes_one_to_five_images_that_need_not_be_connected(comfy: Comfy, node: str) -> None:
    optional = comfy.info(f"OmniGen2RT{node}")["input"]["optional"]
    assert [name for name, (kind, _) in optional.items() if kind == "IMAGE"] == [f"image_{k}" for k in range(1, 6)]


def test_schema_of_the_loader_lists_every_backend(comfy: Comfy) -> None:
    assert inputs_of(comfy, "LoadBundle")["backend"][1]["options"] == ["auto", *BACKENDS]


def test_field_docs_are_the_docstrings_own_words(comfy: Comfy) -> None:
    docs = comfy.module("inputs").field_docs(Request)
    assert docs["steps"] == "Evaluations of the model along the way, 1 to 100,000; more are slower and finer."
    assert docs["height_px"] == docs["width_px"]
    assert docs["max_input_side_px"].endswith("16 to 65,535.")
    assert {*docs} == {field.name for field in dataclasses.fields(Request)}
