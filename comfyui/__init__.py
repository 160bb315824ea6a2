"""Nodes for ComfyUI, in its V3 schema: load a bundle, draw and edit, chat, reflect.

A folder for ComfyUI's `custom_nodes`. It is not part of the Python package: ComfyUI imports it under a name of its own, so it
reaches `omnigen2_rt` by absolute imports and its own files by relative ones. Copies nothing of ComfyUI.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

try:
    import omnigen2_rt as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError('omnigen2-rt is not installed in ComfyUI\'s Python: pip install "omnigen2-rt[cpu]"') from error

from .bundles import register_folder
from .chat import Chat
from .generate import Generate
from .load_bundle import LoadBundle
from .options import AnswerOptions, DrawingOptions
from .reflect import Reflect

NODES: list[type[io.ComfyNode]] = [LoadBundle, Generate, Chat, Reflect, DrawingOptions, AnswerOptions]


class OmniGen2Extension(ComfyExtension):
    """The list of nodes, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of this folder."""
        return NODES


async def comfy_entrypoint() -> OmniGen2Extension:
    """The extension, which ComfyUI asks for when it loads this folder."""
    register_folder()  # not in on_load, which ComfyUI 0.3.64 never calls
    return OmniGen2Extension()
