"""Calls of Python while a library works: a progress monitor and a writer of the engine; and Ctrl-C, held back meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from ...runtime.progress import Progress


class PlanFile(Protocol):
    """Takes an engine's bytes. Two tries of a build may write to it: `restart` forgets the first one's."""

    def write(self, data: bytes, /) -> object: ...

    def restart(self) -> None: ...


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back in the block, which gets a function that says whether it was pressed; then let Python handle it.

    A library prints and forgets what is raised while it calls Python, were it a KeyboardInterrupt.
    """
    pressed = threading.Event()

    def hold(number: int, frame: FrameType | None) -> None:
        pressed.set()

    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    if not callable(handler):
        yield pressed.is_set
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed.is_set():
        handler(signal.SIGINT, None)


def make_monitor(trt: Any, progress: Progress, is_interrupted: Callable[[], bool] = lambda: False) -> Any:
    """A `trt.IProgressMonitor` that calls `progress` with each phase. False stops the build and sets `cancelled`.

    The library calls it from several threads and nests its phases. An exception of `progress` stops the build as well and is kept
    in `raised`: the library would only print it. is_interrupted: asked after each step; True stops the build too.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self.raised: BaseException | None = None
            self.phases: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return not (self.cancelled or is_interrupted())

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def _report(self, phase: str, done: int) -> None:
            try:
                if progress(done, self.phases.get(phase, done), phase) is False:
                    self.cancelled = True
            except BaseException as error:
                self.cancelled, self.raised = True, self.raised or error

    return Monitor()


def make_writer(trt: Any, plan: PlanFile) -> Any:
    """A `trt.IStreamWriter` that writes an engine's bytes into `plan`. What `plan` raises is kept in `raised`."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.raised: BaseException | None = None

        def write(self, data: bytes) -> int:
            try:
                plan.write(data)
            except BaseException as error:
                self.raised = self.raised or error
                return 0
            return len(data)

    return Writer()
