"""Engines of TensorRT and of TensorRT for RTX on an NVIDIA GPU."""

from .rtx import TensorRTForRTX
from .standard import TensorRT

LIBRARIES = {library.name: library for library in (TensorRT(), TensorRTForRTX())}
"""By name, in the order in which a build tries them."""
