"""The pool that draws a batch on a cluster, on a double of Ray: workers that die or don't start, rows that kill them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.batch.pictures import Drawn
from omnigen2_rt.batch.rows import Job
from omnigen2_rt.distributed import batch as pool_module
from omnigen2_rt.distributed.batch import PoolSettings, draw_on_cluster, room_on
from omnigen2_rt.distributed.batch_worker import WorkerPlan, packed
from omnigen2_rt.runtime.errors import OmniGen2Error, RequestError
from omnigen2_rt.runtime.request import Request
from tests.distributed.fake_ray import FakeRay, RayError

PLAN = WorkerPlan(bundle="nano", digest="0" * 64)


class FakeWorker:
    """A worker that draws nothing. starts: what each start comes to, in order: None, or a problem; then None."""

    starts: list[str | None] = []
    deaths: dict[str, int] = {}
    """By id: how many workers die with the row."""

    def __init__(self, plan: WorkerPlan) -> None:
        self.plan = plan

    def open(self) -> str | None:
        problem = self.starts.pop(0) if self.starts else None
        if problem == "dies":
            raise RayError("trace\nthe actor died")
        return problem

    def draw(self, job: Job, images: Sequence[tuple[str, bytes]]) -> Drawn:
        if self.deaths.get(job.id, 0) > 0:
            self.deaths[job.id] -= 1
            raise RayError("trace\nits process died")
        return Drawn(seconds=1.0, pictures=(f"{job.id} {[name for name, _ in images]}".encode(),))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay({"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 0.5})
    monkeypatch.setattr(pool_module, "import_ray", lambda: ray)
    monkeypatch.setattr(pool_module, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "starts", [])
    monkeypatch.setattr(FakeWorker, "deaths", {})
    return ray


def job(number: int, **fields: Any) -> Job:
    request = Request(prompt="a", **fields)
    return Job(number=number, place=f"line {number}", id=str(number), request=request, latents=None, digest="d")


def drawn(jobs: Iterator[Job], **settings: Any) -> dict[str, Drawn]:
    ended = [*draw_on_cluster(PLAN, PoolSettings(**settings), lambda note: None)(jobs)]
    assert len({job.number for job, _ in ended}) == len(ended), "a row ended twice"
    return {job.id: drawing for job, drawing in ended}


def test_pool_draws_every_row_once(ray: FakeRay) -> None:
    ended = drawn(map(job, range(20)))
    assert {name: each.pictures for name, each in ended.items()} == {str(n): (f"{n} []".encode(),) for n in range(20)}
    assert len(ray.started) == 2 and not any(worker.is_alive for worker in ray.started)
    assert ray.most_waiting <= 2


def test_pool_takes_rows_as_it_can_begin_with_them(ray: FakeRay) -> None:
    taken: list[int] = []
    jobs = (taken.append(number) or job(number) for number in range(1000))  # type: ignore[func-returns-value]
    drawings = draw_on_cluster(PLAN, PoolSettings(workers=3), lambda note: None)(jobs)
    for ended in range(1, 100):
        next(drawings)
        assert len(taken) <= ended + 3
    drawings.close()
    assert not any(worker.is_alive for worker in ray.started)


def test_pool_for_few_rows_starts_few_workers(ray: FakeRay) -> None:
    drawn(iter([job(1), job(2)]), workers=50)
    assert len(ray.started) == 2


def test_pool_for_no_rows_asks_nothing_of_the_cluster(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", None)
    assert drawn(iter(())) == {} and ray.started == []


def test_row_whose_worker_dies_is_drawn_by_another(ray: FakeRay) -> None:
    FakeWorker.deaths = {"3": 2, "7": 1}
    ended = drawn(map(job, range(10)))
    assert [each.error for each in ended.values()] == [None] * 10
    assert len(ray.started) == 5


def test_row_that_kills_its_workers_fails_and_the_others_are_drawn(ray: FakeRay) -> None:
    FakeWorker.deaths = {"3": 99}
    ended = drawn(map(job, range(10)))
    assert {name: each.error for name, each in ended.items() if each.error} == {
        "3": "3 workers died while they drew it: its process died"
    }


def test_worker_that_cannot_start_is_replaced(ray: FakeRay) -> None:
    FakeWorker.starts = ["no bundle there", "dies", None]
    assert len(drawn(map(job, range(10)))) == 10
    assert len(ray.started) == 4


@pytest.mark.parametrize(("start", "problem"), [("no bundle there", "no bundle there"), ("dies", "the actor died")])
def test_pool_whose_workers_cannot_start_says_why(ray: FakeRay, start: str, problem: str) -> None:
    FakeWorker.starts = [start] * 99
    with pytest.raises(OmniGen2Error, match=f"^no worker could be started: {problem}$"):
        drawn(map(job, range(10)))
    assert len(ray.started) <= 4 and not any(worker.is_alive for worker in ray.started)


def test_row_whose_image_is_lost_meanwhile_fails_alone(ray: FakeRay, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    ended = drawn(iter([job(1, images=tmp_path / "none.png"), job(2, images=tmp_path / "a.png"), job(3)]))
    assert f"image file '{tmp_path}/none.png' cannot be read: No such file" in str(ended["1"].error)
    assert ended["2"].pictures == (b"2 ['a.png']",) and ended["3"].error is None


def test_packed_row_has_its_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    whole = job(1, images=tmp_path / "a.png")
    alone, images = packed(whole)
    assert alone.request.images == () and alone.request.prompt == "a" and images == [("a.png", b"x")]


def test_note_says_that_no_worker_starts(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PATIENCE_S", -1.0)
    waits = iter([False, False, False])
    wait = ray.wait
    monkeypatch.setattr(ray, "wait", lambda calls, **options: wait(calls, **options) if next(waits, True) else ([], calls))
    notes: list[str] = []
    assert len([*draw_on_cluster(PLAN, PoolSettings(), notes.append)(map(job, range(3)))]) == 3
    assert notes == ["no worker has started yet; each reserves 4 CPU, which may not be free"]


@pytest.mark.parametrize(
    ("nodes", "settings", "backend", "room"),
    [
        ([{"CPU": 16.0}], {}, "auto", (1, 16.0, 0.0)),
        ([{"CPU": 16.0}, {"CPU": 64.0}, {}], {}, "auto", (5, 16.0, 0.0)),
        ([{"CPU": 16.0}], {"cpus": 4}, "auto", (4, 4, 0.0)),
        ([{"CPU": 16.0}], {"cpus": 0.5, "workers": 3}, "auto", (3, 0.5, 0.0)),
        ([{"CPU": 16.0, "GPU": 8.0}, {"CPU": 4.0}], {}, "auto", (8, 1.0, 1.0)),
        ([{"CPU": 16.0, "GPU": 8.0}], {"gpus": 0.25}, "auto", (16, 1.0, 0.25)),
        ([{"CPU": 16.0, "GPU": 8.0}], {}, "openvino", (1, 16.0, 0.0)),
        ([{"CPU": 16.0}], {"cpus": 0}, "auto", (1, 0, 0.0)),
        ([{}], {"workers": 4}, "auto", (4, 1.0, 0.0)),
    ],
)
def test_room_of_a_cluster(
    nodes: list[dict[str, float]], settings: dict[str, Any], backend: str, room: tuple[int, float, float]
) -> None:
    found = room_on(nodes, PoolSettings(**settings), backend)
    assert (found.workers, found.cpus, found.gpus) == room


def test_cluster_without_room_is_refused() -> None:
    message = "no node of the cluster has 1 CPU and 2 GPU, which a worker reserves; if nodes will come, give --workers"
    with pytest.raises(OmniGen2Error, match=f"^{message}$"):
        room_on([{"CPU": 4.0, "GPU": 1.0}], PoolSettings(gpus=2), "auto")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "--workers=0 is out of range; 1 to 10000 are allowed"),
        ({"cpus": -1}, "--cpus-per-worker=-1 is out of range; 0 to 1024 are allowed"),
        ({"cpus": float("nan")}, "--cpus-per-worker=nan is out of range"),
        ({"gpus": 1.5}, "--gpus-per-worker=1.5 is neither a fraction below 1 nor a whole number, as Ray wants it"),
    ],
)
def test_pool_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        PoolSettings(**settings)
