"""From a PyTorch checkpoint to a bundle: graphs without weights, a manifest, and the checks that hold them to the reference."""
