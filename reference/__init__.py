"""The networks of OmniGen2 in plain PyTorch, one file each: what is computed.

Knows nothing of ONNX, of bundles or of engines; imports nothing else of this package.
"""
