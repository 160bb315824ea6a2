"""Requests share the engine fairly, are cancelled within a step, and leave nothing behind."""

from __future__ import annotations

import gc
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from omnigen2_rt import Request
from omnigen2_rt.runtime.components import Components
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.errors import ApiError
from omnigen2_rt.serving.guard import digest
from omnigen2_rt.serving.jobs import Job
from omnigen2_rt.serving.queue import Queue
from omnigen2_rt.serving.requests.bodies import DrawBody
from omnigen2_rt.serving.scheduler import Scheduler, Turn
from omnigen2_rt.serving.settings import ServerSettings
from tests.serving.running import Running, picture_of, serving, wait_until

PROMPT = "a large red circle on a blue background"
KEYS = {"A": "key-of-the-caller-A", "B": "key-of-the-caller-B"}


def job(owner: str = "A", priority: Any = "normal") -> Job:
    return Job(body=DrawBody(prompt="x", priority=priority), model="nano", owner=owner)


class Steps:
    """Work of a few steps that notes the order in which jobs take turns and end."""

    def __init__(self, seconds: Callable[[Job], float] = lambda job: 0.001, steps: int = 3) -> None:
        self.taken: list[str] = []
        self.ended: list[str] = []
        self.gate = threading.Event()
        self._seconds, self._steps = seconds, steps

    def __call__(self, job: Job, turn: Turn) -> None:
        self.gate.wait()
        for _ in range(self._steps):
            time.sleep(self._seconds(job))
            self.taken.append(job.owner)
            turn.pause()
        turn.leave()
        self.ended.append(job.owner)
        job.end("done")


def run(work: Steps, jobs: list[Job], max_active: int) -> None:
    scheduler = Scheduler(work, max_active=max_active, max_queue=64, slice_s=0.0)
    for each in jobs:
        scheduler.submit(each)
    work.gate.set()
    wait_until(lambda: all(each.is_final for each in jobs))
    scheduler.close()


@pytest.mark.parametrize("max_active", [1, 2, 3])
def test_one_request_of_a_second_key_is_among_the_first_three(max_active: int) -> None:
    work = Steps()
    run(work, [*(job("A") for _ in range(20)), job("B")], max_active)
    assert "B" in work.ended[: max(3, max_active)]


def test_keys_share_the_time_whatever_their_steps_take() -> None:
    """A's steps take three times as long as B's: while both are active, A takes far fewer."""
    work = Steps(lambda job: 0.03 if job.owner == "A" else 0.01, steps=12)
    run(work, [job("A"), job("B")], 2)
    last_of_b = len(work.taken) - work.taken[::-1].index("B")
    of_a = work.taken[:last_of_b].count("A")
    assert 2 <= of_a <= 8


def test_low_priority_waits_for_all_others() -> None:
    """It is admitted after them, and while both are active it gets no turn."""
    first, work = job("first"), Steps()
    run(work, [first, job("low", "low"), job("A"), job("B")], 1)
    assert work.ended == ["first", "A", "B", "low"]
    work = Steps()
    run(work, [job("low", "low"), job("A")], 2)
    assert work.ended == ["A", "low"]


def test_position_counts_down_and_the_queue_is_bounded() -> None:
    work = Steps()
    scheduler = Scheduler(work, max_active=1, max_queue=3)
    active = job()
    scheduler.submit(active)
    wait_until(lambda: scheduler.active == 1)
    waiting = [job("A"), job("A"), job("B")]
    for each in waiting:
        scheduler.submit(each)
    assert [each.position for each in waiting] == [2, 3, 1]
    with pytest.raises(ApiError) as refused:
        scheduler.submit(job())
    assert (refused.value.code, refused.value.status) == ("queue_full", 429) and 1 <= (refused.value.retry_after_s or 0) <= 120
    scheduler.cancel(waiting[0])
    assert (waiting[0].state, waiting[1].position) == ("cancelled", 2)
    work.gate.set()
    wait_until(lambda: all(each.is_final for each in (active, *waiting)))
    scheduler.close()


@pytest.mark.parametrize("seed", range(4))
def test_positions_are_the_order_of_admission(seed: int) -> None:
    """Jobs end here in the order in which they began. Positions left out which key was admitted last."""
    choices, queue = random.Random(seed), Waiting(max_active=2, max_queue=30)
    jobs = [job(choices.choice("ABC"), choices.choice(["normal", "normal", "low"])) for _ in range(20)]
    for each in jobs:
        queue.submit(each)
        if choices.random() < 0.3:
            queue.admit_and_end()
    foreseen = sorted((each for each in jobs if each.position), key=lambda each: each.position)
    while queue.queued:
        queue.admit_and_end()
    assert [each for each in queue.order if each in foreseen] == foreseen


class Waiting(Queue):
    """A queue whose jobs end when they are told to."""

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.order: list[Job] = []

    def admit_and_end(self) -> None:
        """Admit what there is room for, and end the job that began first."""
        with self._changed:
            self.order += self._admit()
            if self._under_way:
                self._leave(self._under_way[0])
            self.order += self._admit()

    def close(self) -> bool:
        return True


def test_full_queue_counts_only_those_that_will_wait() -> None:
    """Regression: requests that came together were refused at an idle engine, which hadn't admitted the first ones yet."""
    queue = Waiting(max_active=2, max_queue=1)
    for _ in range(3):
        queue.submit(job())
    with pytest.raises(ApiError, match=r"full \(3 requests\)"):
        queue.submit(job())


def test_held_queue_has_no_room_beyond_its_own() -> None:
    queue = Waiting(max_active=2, max_queue=1)
    queue.hold()
    queue.submit(job())
    with pytest.raises(ApiError, match=r"full \(1 requests\)"):
        queue.submit(job())


def test_each_refused_caller_is_told_a_later_time() -> None:
    """They were all told the same second, and came back at once."""
    queue = Waiting(max_active=1, max_queue=1)
    for _ in range(2):
        queue.submit(job())
    waits = []
    for _ in range(200):
        with pytest.raises(ApiError) as refused:
            queue.submit(job())
        waits.append(refused.value.retry_after_s or 0)
    assert waits[0] == 1 and waits == sorted(waits) and waits[20] > 15 and waits[-1] == 120


def test_second_key_is_served_between_the_requests_of_the_first(nano: Pipeline) -> None:
    settings = ServerSettings(keys=frozenset(map(digest, KEYS.values())))
    done: list[str] = []
    with serving(nano, settings) as server, ThreadPoolExecutor(21) as pool:
        def draw(name: str) -> None:
            server.client(KEYS[name]).images.generate(prompt=PROMPT, extra_body={"num_inference_steps": 10})
            done.append(name)

        of_a = [pool.submit(draw, "A") for _ in range(20)]
        (served,) = server.service.bundles.values()
        wait_until(lambda: served.scheduler.queued + served.scheduler.active + len(done) == 20)
        before = len(done)
        of_b = pool.submit(draw, "B")
        for each in (*of_a, of_b):
            each.result()
    assert "B" in done[before : before + 3]


def test_request_beyond_the_queue_is_told_to_come_back(nano: Pipeline) -> None:
    with serving(nano, ServerSettings(max_queue=2, max_active=1)) as server, ThreadPoolExecutor(8) as pool:
        (served,) = server.service.bundles.values()
        client = server.client()
        slow = [pool.submit(client.images.generate, prompt=PROMPT, extra_body={"num_inference_steps": 200}) for _ in range(3)]
        wait_until(lambda: served.scheduler.queued == 2)
        with pytest.raises(openai.RateLimitError) as refused:
            client.images.generate(prompt=PROMPT)
        assert refused.value.code == "queue_full" and 1 <= int(refused.value.response.headers["retry-after"]) <= 120
        assert all(each.result().data for each in slow)


def disconnect(server: Running, after_s: float, body: bytes) -> float:
    """Send a request, close its connection after a while, and wait until the engine is idle. Returns how long that took."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: not server.is_idle)
        time.sleep(after_s)
    closed = time.perf_counter()
    wait_until(lambda: server.is_idle)
    return time.perf_counter() - closed


@pytest.mark.parametrize("stream", ["false", "true"])
def test_disconnect_frees_the_engine_within_a_step(server: Running, nano: Pipeline, stream: str) -> None:
    body = f'{{"prompt": "{PROMPT}", "num_inference_steps": 200, "stream": {stream}}}'.encode()
    assert disconnect(server, 0.3, body) < 0.2
    (answer,) = server.client().images.generate(prompt=PROMPT, extra_body={"num_inference_steps": 4, "seed": 1}).data or []
    expected = nano.generate(Request(prompt=PROMPT, steps=4, seed=1)).images[0]
    assert picture_of(answer.b64_json).tobytes() == expected.tobytes()


def resources() -> tuple[int, int, int]:
    """Resident bytes, threads and file descriptors of this process."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what Linux shows of a process")
def test_a_hundred_disconnects_leave_nothing(server: Running) -> None:
    body = f'{{"prompt": "{PROMPT}", "num_inference_steps": 200}}'.encode()
    for _ in range(10):
        disconnect(server, 0.0, body)
    wait_until(lambda: threading.active_count() < 20)
    memory, threads, files = resources()
    for _ in range(100):
        disconnect(server, 0.01, body)
    after = resources()
    assert after[0] - memory < 40e6
    assert after[1] <= threads + 2 and after[2] <= files + 2


def test_failing_engine_fails_the_request_and_serves_the_next(
    server: Running, nano: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise BackendError("CUDA failure 2: out of memory")

    client, request = server.client(), {"prompt": PROMPT, "extra_body": {"num_inference_steps": 4, "seed": 1}}
    with monkeypatch.context() as patch:
        patch.setattr(Components, "transform", broken)
        with pytest.raises(openai.InternalServerError) as failed:
            client.images.generate(**request)
    assert (failed.value.status_code, failed.value.code) == (503, "out_of_memory")
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert nano.components.sessions.open_components == ()
    with monkeypatch.context() as patch:
        patch.setattr(Components, "predict_velocity", lambda self, hidden, temb, latents: np.full_like(latents, np.nan))
        with pytest.raises(openai.InternalServerError, match="not finite") as failed:
            client.images.generate(**request)
    assert failed.value.code == "engine_error"
    with monkeypatch.context() as patch:
        patch.setattr(Components, "transform", broken)
        with pytest.raises(openai.APIError, match="out of memory"):
            list(client.images.generate(**request, stream=True))
    assert client.images.generate(**request).data


def test_active_drawings_take_turns_and_give_the_same_pictures(server: Running, nano: Pipeline) -> None:
    with ThreadPoolExecutor(3) as pool:
        def draw(seed: int) -> bytes:
            extra = {"num_inference_steps": 8, "seed": seed}
            (picture,) = server.client().images.generate(prompt=PROMPT, extra_body=extra).data or []
            return picture_of(picture.b64_json).tobytes()

        drawn = list(pool.map(draw, range(6)))
    expected = [nano.generate(Request(prompt=PROMPT, steps=8, seed=seed)).images[0].tobytes() for seed in range(6)]
    assert drawn == expected
