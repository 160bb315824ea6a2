"""A double of ComfyUI's public API: what these nodes use of it, as its documentation describes it."""
