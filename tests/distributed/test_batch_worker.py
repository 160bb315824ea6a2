"""The worker of a node, in this process: rows with images come as bytes and give the pictures that they give here."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnigen2_rt import __version__, load
from omnigen2_rt.batch.digests import bundle_digest
from omnigen2_rt.batch.pictures import draw
from omnigen2_rt.batch.rows import Job, RowFile
from omnigen2_rt.distributed.batch_worker import Worker, WorkerPlan, packed
from omnigen2_rt.evaluation.endpoint import Endpoint
from omnigen2_rt.rewriting.plan import RewritePlan
from omnigen2_rt.runtime.load_options import LoadOptions
from omnigen2_rt.runtime.request import Request
from tests.batch.doubles import write_jsonl
from tests.evaluation.endpoint_double import endpoint_double, fails, says

OPTIONS = LoadOptions(backend="ort-cpu", precision="fp32", threads=1)
PLAN = WorkerPlan(bundle="nano", digest=bundle_digest("nano"), options=OPTIONS)


def test_worker_draws_the_bytes_that_are_drawn_here(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "tan").save(tmp_path / "in.png")
    row = {"prompt": "make it blue", "images": ["in.png", "in.png"], "steps": 1, "width_px": 32}
    path = write_jsonl(tmp_path / "rows.jsonl", row)
    (job,) = RowFile.open(path).rows(PLAN.digest)
    assert isinstance(job, Job)
    worker = Worker(PLAN)
    assert worker.open() is None
    alone, images = packed(job)
    there = worker.draw(alone, images)
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        here = draw(pipeline, "nano", job)
    assert there.error is None and there.pictures == here.pictures and there.parameters == here.parameters


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"digest": "0" * 64}, "a node has another bundle at 'nano' than this machine: copy it there"),
        ({"version": "0.0.1"}, f"a node has omnigen2-rt {__version__}, this machine 0.0.1: install the same"),
        ({"bundle": "nowhere"}, "'nowhere' is not a bundle (no bundle.json): there is no such folder"),
        ({"options": LoadOptions(backend="none")}, "backend='none' is not one of auto, "),
    ],
)
def test_worker_that_cannot_open_its_pipeline_says_why(change: dict[str, Any], problem: str) -> None:
    found = Worker(dataclasses.replace(PLAN, **change)).open()
    assert found is not None and found.startswith(problem)


def test_worker_rewrites_prompts_as_the_plan_says(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a red circle", "steps": 1, "width_px": 32, "height_px": 32})
    (job,) = RowFile.open(path).rows(PLAN.digest)
    assert isinstance(job, Job)
    with endpoint_double(lambda asked, number: says("a red circle of old paper, in even light")) as double:
        plan = RewritePlan(endpoint=Endpoint(url=double.url, model="w", tries=1))
        worker = Worker(dataclasses.replace(PLAN, rewriting=plan))
        assert worker.open() is None
        assert worker.draw(job, []).parameters["prompt"] == "a red circle of old paper, in even light"
        double.reply = lambda asked, number: fails(401)
        other = dataclasses.replace(job, request=dataclasses.replace(job.request, prompt="a blue star"))
        assert "the key is missing or wrong" in str(worker.draw(other, []).error)


def test_node_that_is_full_is_the_rows_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counted as the death of a worker, three times."""

    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    job = Job(number=1, place="line 1", id="1", request=Request(prompt="a"), latents=None, digest="d")
    drawn = Worker(PLAN).draw(job, [("a.png", b"x")])
    assert drawn.error is not None and drawn.error.endswith("can't hold the row's images: No space left on device")
