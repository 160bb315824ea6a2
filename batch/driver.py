"""Runs a batch: finds the rows that must be drawn, has them drawn, and writes their pictures and records.

Holds only the rows under way. Knows no engine: a drawer is passed in, and may draw in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TypeAlias

from ..rewriting.kept_rewrites import KeptRewriter
from ..rewriting.rewriter import Rewriter
from ..runtime.errors import RequestError
from ..runtime.pipeline import Pipeline
from .manifest import Manifest, Record
from .outputs import Output
from .pictures import Drawn, State, draw, state_of, stored_parameters
from .progress import Estimate, Progress
from .rows import BadRow, Job, RowFile

Drawings: TypeAlias = Generator[tuple[Job, Drawn], None, None]
"""Rows with their outcomes, in any order."""
Drawer: TypeAlias = Callable[[Iterator[Job]], Drawings]
"""Draws rows; takes each from the iterator when it can begin with it."""
OnRow: TypeAlias = Callable[[Record, str, Progress], object]
"""Called after each row with its record, its place in the file, and the batch's progress."""


def draw_here(pipeline: Pipeline, bundle: str, rewriter: Rewriter | KeptRewriter | None = None) -> Drawer:
    """A drawer in this process: one row after the other. bundle, rewriter: see `draw`."""

    def drawings(jobs: Iterator[Job]) -> Drawings:
        for job in jobs:
            yield job, draw(pipeline, bundle, job, rewriter)

    return drawings


def run_batch(rows: RowFile, bundle_digest: str, output: Output, drawer: Drawer, on_row: OnRow) -> Progress:
    """Draw every row whose pictures the output doesn't hold yet. Returns how many were drawn, kept and failed.

    bundle_digest: the digest of the bundle that draws, and of how prompts are rewritten. The output stays open. Raises
    RequestError where the rows can't be read to their end or the output can't be written to, and the errors of `drawer`. Pictures
    that are written stay; another run goes on from there.
    """
    manifest = Manifest(output)
    batch = _Batch(output, manifest, on_row, rows.total)
    try:
        with closing(rows.rows(bundle_digest)) as every, closing(drawer(batch.undrawn(every))) as drawings:
            for job, drawn in drawings:
                batch.finish(job, drawn)
    finally:
        manifest.close()
    return batch.progress


class _Batch:
    """Ends rows as drawn, kept or failed: in the output, in the manifest and in the progress."""

    def __init__(self, output: Output, manifest: Manifest, on_row: OnRow, total: int) -> None:
        self._output = output
        self._manifest = manifest
        self._on_row = on_row
        self._estimate = Estimate()
        self.progress = Progress(total=total)

    def undrawn(self, rows: Iterator[Job | BadRow]) -> Iterator[Job]:
        """The rows that must be drawn. The others end here."""
        for row in rows:
            if isinstance(row, BadRow):
                self._fail(row, row.problem)
                continue
            try:
                state = self._state(row)
            except RequestError as error:
                self._fail(row, str(error))
                continue
            if state is State.DRAWN:
                self._keep(row)
            else:
                yield row

    def finish(self, job: Job, drawn: Drawn) -> None:
        """Write a row's pictures, or why there are none."""
        if drawn.error is not None:
            self._fail(job, drawn.error, drawn.seconds)
            return
        try:
            self._state(job)  # a file may have come in the way while it was drawn
        except RequestError as error:
            self._fail(job, str(error), drawn.seconds)
            return
        for name, content in zip(job.files, drawn.pictures, strict=True):
            self._output.write(name, content)
        record = _record(job, drawn, drawn.seconds)
        self._manifest.add(record)
        self._estimate.count()
        self._end(record, job.place, drawn=self.progress.drawn + 1)

    def _state(self, job: Job) -> State:
        """DRAWN where all of a row's pictures are there. Raises RequestError where a file is in the way."""
        states = {name: state_of(self._output, self._manifest, name, job) for name in job.files}
        for name, state in states.items():
            if state is State.FOREIGN:
                raise RequestError(
                    f"{name!r} is there and was not drawn by a batch, or was changed since: move it, or give the row another id"
                )
        return State.DRAWN if {*states.values()} == {State.DRAWN} else State.MISSING

    def _keep(self, job: Job) -> None:
        known = self._manifest.known(job.id)
        is_known = known is not None and known.digest == job.digest and {*known.files} == {*job.files}
        record = replace(known, row=job.number) if known is not None and is_known else self._recovered(job)
        self._manifest.add(record)
        self._end(record, job.place, kept=self.progress.kept + 1)

    def _recovered(self, job: Job) -> Record:
        """The record of a row whose pictures were written by a run that was killed before it wrote the record."""
        pictures = tuple(self._output.read(name) or b"" for name in job.files)
        parameters = stored_parameters(pictures[0])
        parameters.pop("index", None)
        return _record(job, Drawn(pictures=pictures, parameters=parameters, seconds=0.0), None)

    def _fail(self, row: Job | BadRow, problem: str, seconds: float | None = None) -> None:
        record = Record(row=row.number, id=row.id, error=problem, seconds=_rounded(seconds))
        self._manifest.add(record)
        self._end(record, row.place, failed=self.progress.failed + 1)

    def _end(self, record: Record, place: str, **counts: int) -> None:
        progress = replace(self.progress, **counts)
        self.progress = replace(progress, seconds_left=self._estimate.seconds_left(progress.left))
        self._on_row(record, place, self.progress)


def _record(job: Job, drawn: Drawn, seconds: float | None) -> Record:
    return Record(
        row=job.number,
        id=job.id,
        files=job.files,
        sizes_bytes=tuple(map(len, drawn.pictures)),
        seed=job.request.seed,
        seconds=_rounded(seconds),
        cut_tokens=drawn.cut_tokens,
        digest=job.digest,
        parameters=drawn.parameters,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
