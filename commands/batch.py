"""`omnigen2 batch`: a file of requests, drawn to a folder or an object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtime.errors import BundleError, OmniGen2Error, RequestError
from .endpoint_options import KEY
from .merging import with_loras
from .options import (
    Backend,
    BundleName,
    LoraFolder,
    Loras,
    MemoryLimit,
    Precision,
    Threads,
    load_options,
    needs_extra,
    open_pipeline,
)
from .rewriting_options import RewriterKey, RewriterModel, RewriterURL, Rewrites, RewriteTemplate, rewrite_plan
from .terminal import ProgressLine, note

if TYPE_CHECKING:
    from ..batch.driver import Drawer, Drawings
    from ..batch.manifest import Record
    from ..batch.progress import Progress
    from ..batch.rows import Job
    from ..rewriting.kept_rewrites import KeptRewriter
    from ..rewriting.plan import RewritePlan
    from ..rewriting.rewriter import Rewriter
    from ..runtime.load_options import LoadOptions

SHOWN_PROBLEMS = 20
"""Rows without pictures that are shown; the manifest lists all."""


def batch(
    rows: Annotated[Path, typer.Argument(metavar="IN", help="The file of requests: .jsonl, .csv or .parquet.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder, or s3://…, gs://… or az://…")],
    bundle: BundleName = "nano",
    default: Annotated[
        list[str] | None, typer.Option(help="A value for rows without their own, such as steps=20; may be repeated.")
    ] = None,
    ray: Annotated[str | None, typer.Option(help="Draw on a Ray cluster: HOST:PORT, auto, or local for this machine.")] = None,
    workers: Annotated[int | None, typer.Option(help="With --ray: how many draw; by default as many as fit.")] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option(help="With --ray: CPUs that each reserves; by default a whole machine's, 1 with a GPU.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="With --ray: GPUs that each reserves; by default 1 where there are any.")
    ] = None,
    rewrite: Rewrites = False,
    rewriter: RewriterURL = None,
    rewriter_model: RewriterModel = None,
    rewriter_key: RewriterKey = KEY,
    rewrite_template: RewriteTemplate = None,
    lora: Loras = None,
    lora_dir: LoraFolder = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Draw a file of requests. Run it again to go on after a stop: what is there isn't drawn again."""
    from ..batch.digests import bundle_digest
    from ..batch.driver import draw_here, run_batch
    from ..batch.rows import RowFile
    from ..batch.store import open_output

    rewriting = rewrite_plan(rewrite, rewriter, rewriter_model, rewriter_key, rewrite_template)
    file = RowFile.open(rows, named_values("--default", default or []))
    merged = str(with_loras(bundle, lora or (), lora_dir))
    digest = bundle_digest(merged)
    pool = {"workers": workers, "cpus": cpus_per_worker, "gpus": gpus_per_worker}
    shown = ShownRows(ProgressLine(estimates=False))
    with ExitStack() as opened:
        opened.enter_context(held(merged))
        if ray is not None:
            options = load_options(backend, precision, threads, memory_limit)
            drawer = opened.enter_context(_on_ray(ray, merged, digest, pool, options, rewriting, shown.note))
        elif any(value is not None for value in pool.values()):
            raise RequestError("the number of workers and what each reserves belong to --ray ADDRESS")
        else:
            pipeline = opened.enter_context(open_pipeline(merged, backend, precision, threads, memory_limit))
            writing = None if rewriting is None else rewriting.open(pipeline, shown.note)
        output = opened.enter_context(closing(open_output(out)))
        deciding = digest if rewriting is None else rewriting.digest(digest)
        if ray is None:
            drawer = draw_here(pipeline, bundle, None if writing is None else _keeping(writing, out, deciding, opened))
        with shown:
            progress = run_batch(file, deciding, output, _of_one_bundle(drawer, merged, digest), shown.row)
    typer.echo(f"{progress.total} rows: {progress.drawn} drawn, {progress.kept} were there, {progress.failed} failed")
    if progress.failed:
        raise OmniGen2Error(f"{progress.failed} of {progress.total} rows have no picture; {output.manifest!r} says why")


def _keeping(writing: Rewriter, out: str, digest: str, opened: ExitStack) -> Rewriter | KeptRewriter:
    """The rewriter, whose rewrites are kept in a folder `out`; an object store has no file that grows."""
    from ..rewriting.kept_rewrites import KeptRewriter
    from ..runtime.files.kept_results import KeptResults
    from .rewritten_samples import REWRITES

    if not Path(out).is_dir():
        return writing
    return KeptRewriter(writing, opened.enter_context(closing(KeptResults(Path(out) / REWRITES))), digest)


def duration(seconds: float) -> str:
    """Seconds in a readable unit: 40 s, 12 min, 5.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def named_values(option: str, texts: Sequence[str]) -> dict[str, str]:
    """The values of NAME=VALUE by name. Raises RequestError for anything else, or a name that comes twice."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, found, _) in zip(texts, pairs, strict=True):
        if not (name and found):
            raise RequestError(f"{option} {text!r} is not NAME=VALUE")
    values = {name.strip(): value for name, _, value in pairs}
    if len(values) < len(pairs):
        raise RequestError(f"{option} names a column twice")
    return values


@contextmanager
def held(bundle: str) -> Iterator[None]:
    """Keep a bundle from `omnigen2 lora --prune` in the block: workers open it later. Raises BundleError where it is gone."""
    from ..runtime.files.locking import hold_folder
    from ..runtime.pipeline import bundle_path

    try:
        descriptor = hold_folder(bundle_path(bundle))
    except OSError as error:
        raise BundleError(f"{bundle!r} is not a bundle: {error.strerror or error}") from error
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _of_one_bundle(drawer: Drawer, bundle: str, digest: str) -> Drawer:
    """A drawer that ends with a BundleError where the bundle was replaced before a row was drawn to its end."""
    from ..batch.digests import check_same_bundle

    def drawings(jobs: Iterator[Job]) -> Drawings:
        with closing(drawer(jobs)) as each:
            for job, drawn in each:
                check_same_bundle(bundle, digest)
                yield job, drawn

    return drawings


@contextmanager
def _on_ray(
    address: str,
    bundle: str,
    digest: str,
    pool: dict[str, Any],
    options: LoadOptions,
    rewriting: RewritePlan | None,
    note: Callable[[str], object],
) -> Iterator[Drawer]:
    """A drawer on a Ray cluster. pool: fields of `PoolSettings`. options: how workers open the bundle."""
    needs_extra("ray", "ray")
    from ..distributed.batch import PoolSettings, draw_on_cluster
    from ..distributed.batch_worker import WorkerPlan
    from ..distributed.cluster import connected

    settings = PoolSettings(**pool)
    plan = WorkerPlan(bundle=bundle, digest=digest, options=options, rewriting=rewriting)
    with connected(address, note):
        yield draw_on_cluster(plan, settings, note)


class ShownRows:
    """Shows a batch on standard error: a line of progress, and a note for each of the first rows that fail."""

    def __init__(self, line: ProgressLine) -> None:
        self._line = line
        self._problems = 0
        self._refusals = 0
        self._progress: Progress | None = None

    def __enter__(self) -> ShownRows:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.end()
        if error is not None and self._progress is not None:
            self.note(f"{self._progress.done} of {self._progress.total} rows are done; the same command goes on from there")

    def row(self, record: Record, place: str, progress: Progress) -> None:
        """See `driver.OnRow`."""
        self._progress = progress
        if record.error is not None:
            self._problems += 1
            if self._problems <= SHOWN_PROBLEMS:
                self.note(f"{place}: {record.error}")
            elif self._problems == SHOWN_PROBLEMS + 1:
                self.note("more rows fail; the manifest lists them all")
        refused = ((record.parameters or {}).get("rewrite") or {}).get("refused")
        if refused is not None:
            self._refusals += 1
            if self._refusals <= SHOWN_PROBLEMS:
                self.note(f"{place}: {refused}")
            elif self._refusals == SHOWN_PROBLEMS + 1:
                self.note("more prompts were not rewritten; the manifest says which")
        failed = f", {progress.failed} failed" if progress.failed else ""
        left = "" if progress.seconds_left is None or not progress.left else f", {duration(progress.seconds_left)} left"
        self._line.show(progress.done, progress.total, f"rows{failed}{left}")

    def note(self, text: str) -> None:
        """Print a line of its own."""
        self._line.end()
        note(text)
