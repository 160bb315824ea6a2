"""The networks of OmniGen2 in plain PyTorch, one file each: the definition of what every engine computes.

Knows nothing of ONNX, bundles or engines; imports nothing else of this package.
"""
