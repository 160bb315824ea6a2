"""ComfyUI's engine, of which the nodes use the progress bar and the interrupt."""
