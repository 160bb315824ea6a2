"""A checkpoint's weights in a bundle: linked, pointed at, merged with a LoRA or converted."""
