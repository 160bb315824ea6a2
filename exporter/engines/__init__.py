"""TensorRT engines of a bundle: planned, checked, built, cached."""
