"""The workflows that ship are whole and run with nano, and their pictures are the pipeline's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omnigen2_rt import ChatSettings, Pipeline, Request
from tests.comfyui.prompts import pixels, saved_pixels
from tests.comfyui.running import Comfy, Prompt
from tests.comfyui.workflows import (
    FOLDER,
    NAMES,
    NOTES,
    WIDGETS,
    api_form,
    files,
    stored,
    stored_for_api,
    widget_values,
)

STEPS = 6


def info_of(comfy: Comfy, kind: str) -> dict:
    """A node as `/object_info` shows it; of the nodes of ComfyUI itself only the inputs."""
    node = comfy.nodes.NODE_CLASS_MAPPINGS[kind]
    return {"input": node.INPUT_TYPES()} if hasattr(node, "INPUT_TYPES") else node.GET_NODE_INFO_V1()


def quick(prompt: Prompt) -> Prompt:
    """The workflow with fewer steps, on one thread of a CPU."""
    changes = {"steps": STEPS, "backend": "ort-cpu", "precision": "fp32", "threads": 1}
    return {
        number: {**node, "inputs": {**node["inputs"], **{name: changes[name] for name in changes if name in node["inputs"]}}}
        for number, node in prompt.items()
    }


def test_folder_holds_each_workflow_in_both_forms() -> None:
    assert sorted(files()) == sorted(FOLDER / part / f"{name}.json" for name in NAMES for part in ("", "api"))


@pytest.mark.parametrize("name", NAMES)
def test_workflow_for_the_api_is_that_of_the_editor(comfy: Comfy, name: str) -> None:
    assert stored_for_api(name) == api_form(stored(name), lambda kind: info_of(comfy, kind))


@pytest.mark.parametrize("name", NAMES)
def test_workflow_of_the_editor_has_whole_links(comfy: Comfy, name: str) -> None:
    """Both ends of a link name it, and the sockets are those of the nodes."""
    workflow = stored(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["last_node_id"] == max(nodes) and workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    for link, source, output, target, slot, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"] and nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == link
    for node in workflow["nodes"]:
        if node["type"].startswith("OmniGen2RT"):
            info = comfy.info(node["type"])
            sockets = {**info["input"]["required"], **info["input"].get("optional", {})}
            own = {each["name"]: each["type"] for each in node["inputs"] if "widget" not in each}
            assert own == {each: sockets[each][0] for each in sockets if sockets[each][0] not in WIDGETS}
            assert [each["type"] for each in node["outputs"]] == info["output"]
            assert dict(widget_values(node, info))


@pytest.mark.parametrize("name", NAMES)
def test_workflow_may_be_queued_and_names_no_folder(comfy: Comfy, name: str) -> None:
    prompt = stored_for_api(name)
    assert not comfy.problems(prompt)
    loads = [node["inputs"] for node in prompt.values() if node["class_type"] == "OmniGen2RTLoadBundle"]
    assert [(load["bundle"], load["folder"], load["backend"]) for load in loads] == [("nano", "", "auto")]
    assert not {node["class_type"] for node in prompt.values()} & {*NOTES}


def test_draw_and_edit_saves_the_pipelines_pictures(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    prompt = quick(stored_for_api("draw_and_edit"))
    comfy.run(prompt)
    fields = {"steps": STEPS, "text_guidance": 2.5, "image_guidance": 1.5, "seed": 7}
    first, second = (node["inputs"]["prompt"] for node in prompt.values() if "prompt" in node["inputs"])
    drawn = nano.generate(Request(prompt=first, **fields)).images
    edited = nano.generate(Request(prompt=second, images=drawn, **fields)).images
    assert np.array_equal(saved_pixels(saved, "omnigen2_drawn"), [pixels(drawn[0])])
    assert np.array_equal(saved_pixels(saved, "omnigen2_edited"), [pixels(edited[0])])


def test_reflect_and_ask_gives_the_pipelines_pictures_and_answers(comfy: Comfy, nano: Pipeline, saved: Path) -> None:
    prompt = quick(stored_for_api("reflect_and_ask"))
    run = comfy.run(prompt)
    wish, first, second = (node["inputs"]["prompt"] for node in prompt.values() if "prompt" in node["inputs"])
    fields = {"steps": STEPS, "text_guidance": 2.5, "image_guidance": 1.5, "seed": 7}
    reflection = nano.reflect(Request(prompt=wish, **fields))
    assert np.array_equal(saved_pixels(saved, "omnigen2_best"), [pixels(reflection.result.images[0])])
    talk, settings = nano.start_chat(), ChatSettings(seed=7, may_draw=False)
    answers = [talk.ask(first, reflection.result.images, settings).text, talk.ask(second, (), settings).text]
    texts = [text for output in run.outputs.values() for text in output.get("text", ())]
    assert run.of("execution_success")
    assert all(answers) and {*answers} <= {*texts}
    assert any(text.startswith("picture 1 (grade ") for text in texts)
