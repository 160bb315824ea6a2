"""Jobs that replicas carry out, with doubles for the replicas: what is sent, what watchers see, what a lost replica costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from omnigen2_rt.distributed import dispatcher as dispatcher_module
from omnigen2_rt.distributed import remote
from omnigen2_rt.distributed.dispatcher import Dispatcher
from omnigen2_rt.distributed.remote import MOST_LOSSES, RemoteWorker, ReplicaLost, Send
from omnigen2_rt.distributed.tasks import Task
from omnigen2_rt.serving.errors import ApiError
from omnigen2_rt.serving.jobs import Event, Job
from omnigen2_rt.serving.requests.bodies import ChatBody, DrawBody, Message, ReflectBody
from tests.distributed.doubles import DONE, LOST, RUNNING, Gate, Script
from tests.serving.running import wait_until

STREAM = DrawBody(prompt="x", seed=1, stream=True, partial_images=2)
CHAT = ChatBody(messages=[Message(role="user", content="x")], seed=1, stream=True)
REFLECT = ReflectBody(kind="reflect", prompt="x", seed=1)


class Counts:
    """Counts what it is told of."""

    def __init__(self) -> None:
        self.first_turns, self.steps, self.pieces = 0, list[float](), 0

    def on_first_turn(self, waited_s: float) -> None:
        self.first_turns += 1

    def on_step(self, seconds: float) -> None:
        self.steps.append(seconds)

    def on_piece(self) -> None:
        self.pieces += 1


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SHORTEST_PAUSE_S", 0.0)


def job(body: Any = STREAM, owner: str = "A", is_kept: bool = False) -> Job:
    return Job(body=body, model="nano", owner=owner, is_kept=is_kept)


def carried_out(send: Send, each: Job) -> tuple[list[Event], Counts]:
    """A job's events while the job is carried out, and the counters."""
    events: list[Event] = []
    each.watch(events.append)
    counts = Counts()
    dispatcher = Dispatcher(RemoteWorker(send, counts), max_active=1, max_queue=1)
    dispatcher.submit(each)
    wait_until(lambda: each.is_final)
    dispatcher.close()
    return [event for event in events if event["type"] != "queued"], counts


def text(words: str) -> Event:
    return {"type": "text", "text": words}


def preview(step: int) -> Event:
    return {"type": "preview", "index": 0, "step": step, "b64_json": ""}


def step(done: int) -> Event:
    return {"type": "step", "step": done, "steps": 4, "seconds_left": 1.0, "seconds": 0.25}


def test_messages_become_the_jobs_events_and_its_outcome() -> None:
    drawn = job()
    script = Script([RUNNING, step(1), preview(2), DONE])
    events, counts = carried_out(script, drawn)
    assert [event["type"] for event in events] == ["running", "step", "preview", "done"]
    assert "seconds" not in events[1] and (counts.first_turns, counts.steps) == (1, [0.25])
    assert drawn.outcome is not None and drawn.outcome.pictures == (b"picture",)
    assert script.tasks[0].job().body == drawn.body


def test_error_of_the_replica_is_the_jobs() -> None:
    error = ApiError("out_of_memory", "the engine ran out of memory").facts()
    failed = job()
    events, _ = carried_out(Script([RUNNING, {"type": "failed", "error": error}]), failed)
    assert events[-1] == {"type": "failed", "error": error} and failed.error is not None and failed.error.status == 503


def test_error_that_is_no_loss_fails_the_job_at_once() -> None:
    failed = job()
    script = Script([RUNNING, TypeError("a fault of ours")])
    carried_out(script, failed)
    assert failed.error is not None and failed.error.code == "engine_error" and len(script.tasks) == 1


@pytest.mark.parametrize("loss", [[LOST], [{"type": "cancelled"}], []], ids=["lost", "given up", "ended early"])
def test_task_of_a_lost_replica_is_sent_again(loss: list[Any]) -> None:
    drawn = job()
    script = Script([RUNNING, step(1), *loss], [RUNNING, step(1), step(2), DONE])
    _, counts = carried_out(script, drawn)
    assert drawn.state == "done" and len(script.tasks) == 2 and script.tasks[0] == script.tasks[1]
    assert (counts.first_turns, len(counts.steps)) == (1, 3)


def test_stream_gives_no_partial_picture_twice_after_a_loss() -> None:
    events, _ = carried_out(Script([RUNNING, preview(2), LOST], [RUNNING, preview(2), preview(3), DONE]), job())
    assert [event["step"] for event in events if event["type"] == "preview"] == [2, 3]


def test_stream_gives_no_words_twice_after_a_loss_though_they_come_in_other_pieces() -> None:
    answered = job(CHAT)
    script = Script([RUNNING, text("a red "), text("cir"), LOST], [RUNNING, text("a"), text(" red circle"), text("."), DONE])
    events, _ = carried_out(script, answered)
    assert [event["text"] for event in events if event["type"] == "text"] == ["a red ", "cir", "cle", "."]
    assert answered.text == "a red circle."


def test_stream_whose_words_change_after_a_loss_fails() -> None:
    answered = job(CHAT)
    carried_out(Script([RUNNING, text("a red"), LOST], [RUNNING, text("a blue"), DONE]), answered)
    assert answered.error is not None and "another one gives other words" in str(answered.error)


def test_answer_that_nobody_follows_may_change_its_words_after_a_loss() -> None:
    answered = job(CHAT.model_copy(update={"stream": False}))
    carried_out(Script([RUNNING, text("a red"), LOST], [RUNNING, text("a blue one"), DONE]), answered)
    assert answered.state == "done"


def test_reflection_tells_of_each_round_once_after_a_loss() -> None:
    rounds = [{"type": "round", "number": number} for number in (1, 2)]
    events, _ = carried_out(Script([RUNNING, rounds[0], LOST], [RUNNING, *rounds, DONE]), job(REFLECT, is_kept=True))
    assert [event["number"] for event in events if event["type"] == "round"] == [1, 2]


def test_task_that_no_replica_takes_is_sent_until_one_does() -> None:
    drawn = job()
    carried_out(Script(*[[LOST]] * (2 * MOST_LOSSES), [RUNNING, DONE]), drawn)
    assert drawn.state == "done"


def test_task_that_ends_each_replica_fails() -> None:
    ending = job()
    script = Script(*[[RUNNING, LOST]] * MOST_LOSSES)
    carried_out(script, ending)
    assert ending.error is not None and str(ending.error).startswith("5 replicas were lost one after another")


def test_dispatcher_sends_its_number_of_jobs_and_queues_the_rest() -> None:
    gate = Gate()
    dispatcher = Dispatcher(RemoteWorker(gate, Counts()), max_active=3, max_queue=2)
    jobs = [job(owner=owner) for owner in "AAABA"]
    for each in jobs:
        dispatcher.submit(each)
        wait_until(lambda: dispatcher.active == 3 or not dispatcher.queued)
    wait_until(lambda: gate.waiting == 3)
    assert [each.state for each in jobs] == ["running"] * 3 + ["queued"] * 2
    assert [each.position for each in jobs[3:]] == [1, 2]
    with pytest.raises(ApiError) as refused:
        dispatcher.submit(job())
    assert refused.value.code == "queue_full"
    gate.open()
    wait_until(lambda: all(each.state == "done" for each in jobs) and not dispatcher.active)
    dispatcher.close()


def test_cancel_ends_a_job_that_waits_and_the_task_of_one_under_way() -> None:
    gate = Gate()
    dispatcher = Dispatcher(RemoteWorker(gate, Counts()), max_active=1, max_queue=2)
    first, second = job(), job()
    dispatcher.submit(first)
    wait_until(lambda: gate.waiting == 1)
    dispatcher.submit(second)
    dispatcher.cancel(second)
    assert (second.state, first.state) == ("cancelled", "running")
    dispatcher.cancel(first)
    wait_until(lambda: first.is_final and not dispatcher.active)
    assert first.state == "cancelled" and gate.cancelled == 1
    dispatcher.close()


def test_close_cancels_what_is_under_way() -> None:
    gate = Gate()
    dispatcher = Dispatcher(RemoteWorker(gate, Counts()), max_active=2, max_queue=2)
    jobs = [job(), job()]
    for each in jobs:
        dispatcher.submit(each)
    wait_until(lambda: gate.waiting == 2)
    dispatcher.close()
    wait_until(lambda: all(each.state == "cancelled" for each in jobs))


def test_cancel_ends_a_job_that_waits_for_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SHORTEST_PAUSE_S", 60.0)
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 60.0)
    script, waiting = Script([LOST]), job()
    dispatcher = Dispatcher(RemoteWorker(script, Counts()), max_active=1, max_queue=1)
    dispatcher.submit(waiting)
    wait_until(lambda: script.tasks)
    time.sleep(0.01)
    dispatcher.cancel(waiting)
    wait_until(lambda: waiting.state == "cancelled")
    dispatcher.close()


class Outage:
    """No replica: responses wait until they are cancelled, or until one is there."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.is_over = threading.Event()
        self.sent = 0

    def __call__(self, task: Task) -> OutageResponse:
        self.sent += 1
        return OutageResponse(self)


class OutageResponse:
    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._is_cancelled = threading.Event()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while not self._outage.is_over.wait(0.002):
            if self._is_cancelled.is_set():
                raise ReplicaLost
        yield RUNNING
        yield DONE

    def cancel(self) -> None:
        self._is_cancelled.set()


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Outage, Dispatcher]]:
    """An outage, and a dispatcher of two jobs at a time that waits a minute for its end."""
    monkeypatch.setattr(dispatcher_module, "POLL_S", 0.01)
    outage = Outage()
    worker = RemoteWorker(outage, Counts(), outage_s=lambda: outage.seconds, patience_s=60.0)
    dispatcher = Dispatcher(worker, max_active=2, max_queue=9)
    yield outage, dispatcher
    dispatcher.close()


def test_jobs_that_wait_too_long_for_a_replica_fail(outage: tuple[Outage, Dispatcher]) -> None:
    """They never ended."""
    none, dispatcher = outage
    old = [job() for _ in range(4)]
    for each in old:
        each.created -= 100
        dispatcher.submit(each)
    wait_until(lambda: none.sent == 2)
    time.sleep(0.03)
    assert [each.state for each in old] == ["running", "running", "queued", "queued"]
    none.seconds = 61.0
    wait_until(lambda: all(each.is_final for each in old))
    errors = [each.error for each in old if each.error is not None]
    assert [(error.code, str(error)) for error in errors] == [("no_replica", "no replica has run for 61 s: try again later")] * 4
    assert (errors[0].status, errors[0].retry_after_s, none.sent) == (503, 10, 2)


def test_job_that_came_late_waits_as_long_and_is_done_where_a_replica_comes(outage: tuple[Outage, Dispatcher]) -> None:
    none, dispatcher = outage
    none.seconds = 1000.0
    late = job()
    dispatcher.submit(late)
    wait_until(lambda: none.sent == 1)
    time.sleep(0.03)
    assert late.state == "running"
    none.is_over.set()
    wait_until(lambda: late.state == "done")


def test_job_that_a_replica_works_on_does_not_fail_where_its_state_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "POLL_S", 0.01)
    gate, long = Gate(), job()
    dispatcher = Dispatcher(RemoteWorker(gate, Counts(), outage_s=lambda: 1e9, patience_s=60.0), max_active=1, max_queue=1)
    dispatcher.submit(long)
    wait_until(lambda: gate.waiting == 1)
    long.created -= 1000
    time.sleep(0.03)
    gate.open()
    wait_until(lambda: long.is_final)
    assert long.state == "done"
    dispatcher.close()
