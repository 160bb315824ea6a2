"""The table of nodes: those of ComfyUI that the shipped workflows use, and those of the folders that are loaded."""

from __future__ import annotations

import importlib.util
import os
import sys
from itertools import count
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
from comfy_api.latest import ComfyExtension
from PIL import Image


class SaveImage:
    """Saves pictures. Its fractions of 255 are cut off, not rounded."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as nodes of the old schema give them."""
        return {"required": {"images": ("IMAGE", {}), "filename_prefix": ("STRING", {"default": "ComfyUI"})}}

    def run(self, images: Any, filename_prefix: str) -> dict[str, Any]:
        """Write each picture under a name that is free."""
        files = []
        for image in images:
            pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
            names = (f"{filename_prefix}_{number:05}_.png" for number in count(1))
            name = next(name for name in names if not os.path.exists(os.path.join(folder_paths.get_output_directory(), name)))
            Image.fromarray(pixels).save(os.path.join(folder_paths.get_output_directory(), name))
            files.append({"filename": name, "subfolder": "", "type": "output"})
        return {"images": files}


class PreviewAny:
    """Shows a text."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as nodes of the old schema give them."""
        return {"required": {"source": ("*", {})}}

    def run(self, source: Any) -> dict[str, Any]:
        """Give the text to the page."""
        return {"text": (str(source),)}


NODE_CLASS_MAPPINGS: dict[str, Any] = {"SaveImage": SaveImage, "PreviewAny": PreviewAny}


def interrupt_processing(value: bool = True) -> None:
    """Ask the running node to stop, as the interrupt button does."""
    comfy.model_management.interrupt_current_processing(value)


async def load_custom_node(module_path: str, ignore: Any = frozenset(), module_parent: str = "custom_nodes") -> bool:
    """Import a folder under a name made of its path, and take its nodes."""
    name = module_path.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, os.path.join(module_path, "__init__.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not hasattr(module, "NODE_CLASS_MAPPINGS"), "with this name ComfyUI looks for nodes of the old schema only"
    extension = await module.comfy_entrypoint()
    assert isinstance(extension, ComfyExtension)
    for node in await extension.get_node_list():
        NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node
    return True
