"""A bundle beside the PyTorch reference: components, engines and whole drawings."""
