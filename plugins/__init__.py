"""Custom operators: computations that take several nodes of standard ONNX.

Each operator is a folder with its definition in numpy, its ONNX function, its GPU kernel and its TensorRT plugin. Nothing
here imports the rest of the package, and importing this package loads none of those four.
"""
