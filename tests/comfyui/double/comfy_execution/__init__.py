"""The part of ComfyUI's execution that nodes use."""
