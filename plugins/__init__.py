"""Operators of our own: what no ONNX standard operator says in one node.

Each operator is a folder with its meaning in numpy, its ONNX function, its GPU kernel and its TensorRT plugin. Nothing
here imports the rest of the package, and importing this package loads none of those four.
"""
