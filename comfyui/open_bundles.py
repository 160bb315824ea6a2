"""The bundles that are open: one node uses one at a time, and only the one that was used last keeps its components loaded.

ComfyUI keeps the outputs of nodes as long as it sees fit, some versions for as long as there is memory. A bundle that it holds
without need costs nothing here, because its components are closed when another one is used.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from omnigen2_rt import BackendError, Pipeline, load
from omnigen2_rt.runtime.load_options import LoadOptions


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """A bundle and how to run it.

    folder: the bundle's.
    digest: of its content, so that a bundle that was exported anew is opened anew.
    options: how it is opened.
    keeps_memory: whether components stay loaded between two nodes.
    """

    folder: Path
    digest: str
    options: LoadOptions = LoadOptions()
    keeps_memory: bool = True


class OpenBundle:
    """An open bundle: what travels between the nodes. Its memory is freed when nothing holds it any more."""

    def __init__(self, settings: BundleSettings) -> None:
        self.settings = settings
        self._pipeline = load(settings.folder, **asdict(settings.options))
        weakref.finalize(self, self._pipeline.components.close, for_good=True).atexit = False

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The pipeline, for one thread at a time. After an error of the engine its components are opened anew."""
        with _turn:
            _close_others(self)
            try:
                yield self._pipeline
            except (BackendError, MemoryError):
                self._pipeline.close()
                raise
            finally:
                if not self.settings.keeps_memory:
                    self._pipeline.close()

    @property
    def loaded_components(self) -> tuple[str, ...]:
        """The components that take memory."""
        return self._pipeline.components.sessions.open_components


_turn = Lock()
_open: weakref.WeakValueDictionary[BundleSettings, OpenBundle] = weakref.WeakValueDictionary()


def open_bundle(settings: BundleSettings) -> OpenBundle:
    """The open bundle of these settings; several nodes share one. Raises BundleError or BackendError."""
    with _turn:
        bundle = _open.get(settings)
        if bundle is None:
            bundle = _open[settings] = OpenBundle(settings)
        return bundle


def _close_others(bundle: OpenBundle) -> None:
    """Free the memory of every other bundle."""
    for other in list(_open.values()):
        if other is not bundle:
            other._pipeline.close()
