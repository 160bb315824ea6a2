"""ComfyUI's command line."""

from __future__ import annotations

from types import SimpleNamespace

args = SimpleNamespace(cpu=False, preview_size=512)
