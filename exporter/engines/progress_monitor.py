"""TensorRT's progress monitor as calls of a `Progress` that may cancel the build."""

from __future__ import annotations

from typing import Any

from ...runtime.progress import Progress


def make_monitor(progress: Progress) -> Any:
    """A `tensorrt.IProgressMonitor` that calls `progress` with each phase. False stops the build and sets `cancelled`.

    TensorRT calls it from several threads and nests its phases. An exception of `progress` stops the build as well and is kept
    in `raised`: TensorRT would only print it, and a Ctrl-C would be lost.
    """
    import tensorrt as trt

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
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def _report(self, phase: str, done: int) -> None:
            try:
                if progress(done, self.phases.get(phase, done), phase) is False:
                    self.cancelled = True
            except BaseException as error:
                self.cancelled, self.raised = True, self.raised or error

    return Monitor()
