"""The worker that draws a batch's rows on a node, with a pipeline of its own. Knows nothing of Ray.

Nodes share no files with the machine that reads the rows: input images travel as bytes, and pictures travel back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryDirectory

from .. import __version__
from ..batch.digests import bundle_digest
from ..batch.pictures import Drawn, draw
from ..batch.rows import Job
from ..evaluation.endpoint import EndpointUnusable
from ..rewriting.plan import RewritePlan
from ..runtime.errors import OmniGen2Error
from ..runtime.files.reading import read_bytes
from ..runtime.images.opening import MAX_FILE_BYTES
from ..runtime.load_options import LoadOptions
from ..runtime.pipeline import load


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """The pipeline that each worker opens.

    digest: the digest of the bundle on the machine that reads the rows.
    version: the release of omnigen2-rt there.
    options: how it opens the bundle.
    rewriting: how prompts are rewritten, or None.
    """

    bundle: str
    digest: str
    version: str = __version__
    options: LoadOptions = LoadOptions()
    rewriting: RewritePlan | None = None


class Worker:
    """Draws rows, one at a time."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan

    def open(self) -> str | None:
        """Open the pipeline. Returns the reason why it can't be opened, or None."""
        plan = self._plan
        try:
            if plan.version != __version__:
                return f"a node has omnigen2-rt {__version__}, this machine {plan.version}: install the same"
            if bundle_digest(plan.bundle) != plan.digest:
                return f"a node has another bundle at {plan.bundle!r} than this machine: copy it there"
            self._pipeline = load(plan.bundle, **asdict(plan.options))
            self._rewriter = None if plan.rewriting is None else plan.rewriting.open(self._pipeline)
        except OmniGen2Error as error:
            return str(error)
        return None

    def draw(self, job: Job, images: Sequence[tuple[str, bytes]]) -> Drawn:
        """Draw a row whose request has no images. images: the name and the content of each."""
        try:
            with TemporaryDirectory(prefix="omnigen2-") as folder:
                paths = [_unpacked(Path(folder) / str(number), *image) for number, image in enumerate(images)]
                whole = replace(job, request=replace(job.request, images=paths))
                return draw(self._pipeline, self._plan.bundle, whole, self._rewriter)
        except EndpointUnusable as error:  # raised, it would look like a worker that died
            return Drawn(seconds=0.0, error=str(error))
        except OSError as error:
            problem = f"the node {gethostname()} can't hold the row's images: {error.strerror or error}"
            return Drawn(seconds=0.0, error=problem)


def packed(job: Job) -> tuple[Job, list[tuple[str, bytes]]]:
    """The row without its images, and the name and the content of each. Raises OSError."""
    paths = [Path(str(image)) for image in job.request.images]
    images = [(path.name, read_bytes(path, MAX_FILE_BYTES)) for path in paths]
    return replace(job, request=replace(job.request, images=())), images


def _unpacked(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir()
    path = folder / name
    path.write_bytes(content)
    return path
