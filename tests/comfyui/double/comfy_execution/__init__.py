"""How ComfyUI executes a workflow: what nodes and tests use of it."""
