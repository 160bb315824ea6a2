"""Compares a bundle with the PyTorch reference: components, engines and whole drawings."""
