"""Recorded runs of input shapes that come back, and the scratch memory whose address they hold. Knows no TensorRT.

A run is recorded as a CUDA graph, by us or by the library. All contexts share one scratch buffer, because only one of them runs
at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from .cuda import Device, DeviceTensor
from .library import Launch

MOST_CAPTURES = 8

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""The name and shape of every input."""


class Capture(NamedTuple):
    """A recorded run.

    context: TensorRT's, whose state the record holds.
    inputs, outputs: tensors whose addresses the record holds.
    """

    launch: Launch
    context: Any
    inputs: Mapping[str, DeviceTensor]
    outputs: Mapping[str, DeviceTensor]


class Captures:
    """The recorded runs of one engine, by the shapes of its inputs."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._captures: dict[Shapes, Capture] = {}

    def __contains__(self, shapes: Shapes) -> bool:
        return shapes in self._captures

    def add(self, shapes: Shapes, capture: Capture) -> None:
        """Keep a recorded run for these shapes."""
        self._captures[shapes] = capture

    def replay(self, shapes: Shapes, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Run what was recorded for these shapes on other inputs. Returns copies of its outputs."""
        capture = self._captures[shapes]
        for name, tensor in inputs.items():
            self._device.copy(tensor, capture.inputs[name])
        capture.launch()
        return {name: self._device.copied(tensor) for name, tensor in capture.outputs.items()}

    def make_room(self) -> None:
        """Drop all of them if there are `MOST_CAPTURES`."""
        if len(self._captures) >= MOST_CAPTURES:
            self.drop()

    def drop(self) -> None:
        """Free them after the work that uses them."""
        if self._captures:
            self._device.synchronize()
        for capture in self._captures.values():
            capture.launch.discard()
        self._captures.clear()


class Scratch:
    """The scratch buffer that all contexts on one device share."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._buffer: DeviceTensor | None = None
        self._captures: weakref.WeakSet[Captures] = weakref.WeakSet()

    def new_captures(self) -> Captures:
        """An empty set of captures, which is dropped whenever the buffer moves."""
        captures = Captures(self.device)
        self._captures.add(captures)
        return captures

    def reserve(self, nbytes: int) -> DeviceTensor:
        """The buffer, at least `nbytes` large. It moves when it grows."""
        if self._buffer is None or self._buffer.nbytes < nbytes:
            for captures in self._captures:
                captures.drop()
            self._buffer = None
            self._buffer = DeviceTensor(self.device, (nbytes,), "uint8")
        return self._buffer
