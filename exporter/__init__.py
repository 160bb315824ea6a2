"""Exports a PyTorch checkpoint to a bundle: graphs without weights, a manifest, and comparisons with the reference."""
