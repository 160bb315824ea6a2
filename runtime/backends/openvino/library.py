"""OpenVINO's Python module on this machine: whether it works, what its CPU computes, and the words of its errors.

Knows no bundle and no model.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import BackendError
from ..machine_limits import usable_cores

DEVICE = "CPU"
FORKED = (
    "OpenVINO ran in the process that this one was forked from, and would hang here: load the pipeline in the child alone, or "
    'start the child with multiprocessing\'s "spawn"'
)
_threaded: set[int] = set()
"""The processes, this one or those that it was forked from, in which OpenVINO has started threads. A fork copies no thread."""


def import_openvino() -> Any:
    """The openvino module, or BackendError that says which extra brings it."""
    try:
        with _without_telemetry():
            import openvino
    except ImportError:
        raise BackendError('no OpenVINO is installed: pip install "omnigen2-rt[openvino]"') from None
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hides the package through which `import openvino` sends telemetry; without it, OpenVINO sends none."""
    package = "openvino_telemetry"
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


@cache
def openvino_core() -> Any:
    """The process's `openvino.Core`: plugins are loaded once."""
    return import_openvino().Core()


def note_threads() -> None:
    """Note that OpenVINO starts threads in this process: it does so when it compiles or reads the first model."""
    _threaded.add(os.getpid())


def check_process() -> None:
    """Raises BackendError where OpenVINO would wait for threads that a fork didn't copy."""
    if _threaded - {os.getpid()}:
        raise BackendError(FORKED)


def problem() -> str | None:
    """Why this backend can't work here, or None."""
    try:
        check_process()
        devices = openvino_core().available_devices
    except BackendError as error:
        return str(error)
    return None if DEVICE in devices else f"OpenVINO finds no {DEVICE} here, only {', '.join(devices) or 'nothing'}"


@cache
def precisions(threads: int | None = None) -> tuple[str, ...]:
    """The precisions that this CPU computes in, best first: bf16 only where it has instructions for it; elsewhere it is slower.

    One thread or core computes no bf16: OpenVINO divides the cores by two and ends the whole process (its issue 33300, 2026.4).
    """
    if problem() is not None:
        return ("bf16", "fp32")
    if 1 in (threads, usable_cores()):
        return ("fp32",)
    by_default = openvino_core().get_property(DEVICE, "INFERENCE_PRECISION_HINT").to_string()
    capable = "BF16" in openvino_core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "fp32") if capable and by_default != "f32" else ("fp32",)


@cache
def cpu_identity() -> str:
    """One hash over the CPU's name and abilities, which compiled models depend on."""
    properties = [platform.machine(), openvino_core().get_property(DEVICE, "FULL_DEVICE_NAME"), _cpu_flags()]
    properties += sorted(openvino_core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
    return hashlib.sha256("\0".join(properties).encode()).hexdigest()


def _cpu_flags() -> str:
    """The CPU's instruction sets as Linux lists them, elsewhere its name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")


def last_line(error: Exception) -> str:
    """The reason in an error of OpenVINO: its messages begin with a trace through its source and end with the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
