"""TensorRT engines on an NVIDIA GPU."""
