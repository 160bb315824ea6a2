"""Jobs: their events and results, who may see them, how they expire, and that none is lost when the server is killed."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from omnigen2_rt import Request
from omnigen2_rt.runtime.errors import OmniGen2Error
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.errors import ApiError
from omnigen2_rt.serving.guard import digest
from omnigen2_rt.serving.jobs import Ending, Job, Outcome
from omnigen2_rt.serving.requests.bodies import DrawBody
from omnigen2_rt.serving.settings import ServerSettings
from omnigen2_rt.serving.store import DATABASE, Store
from tests.serving.processes import ServerProcess, server_process, state
from tests.serving.running import Running, picture_of, serving, url_of, wait_until

PROMPT = "a large red circle on a blue background"
DRAW = {"kind": "draw", "prompt": PROMPT, "num_inference_steps": 6, "seed": 3}
SLOW = {**DRAW, "num_inference_steps": 200}


def create(http: httpx2.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    created: dict[str, Any] = answer.json()
    return created


def events_of(http: httpx2.Client, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a job, up to its end."""
    with http.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_drawings_events_are_its_steps_previews_and_result(server: Running, nano: Pipeline) -> None:
    http = server.http()
    job = create(http, {**DRAW, "num_inference_steps": 60})
    events = list(events_of(http, job))
    steps = [event["step"] for event in events if event["type"] == "step"]
    assert steps == sorted(set(steps)) and steps[-1] <= 60
    assert [event["steps"] for event in events if event["type"] == "step"] == [60] * len(steps)
    preview = [event for event in events if event["type"] == "preview"][-1]
    assert picture_of(preview["b64_json"]).size == (8, 8)
    assert events[-1]["type"] == "done"
    finished = events[-1]["job"]
    assert finished == http.get(f"/v1/jobs/{job['id']}").json() and finished["state"] == "done"
    expected = nano.generate(Request(prompt=PROMPT, steps=60, seed=3)).images[0]
    assert picture_of(finished["result"]["data"][0]["b64_json"]).tobytes() == expected.tobytes()
    assert [event["type"] for event in events_of(http, job)] == ["done"]


def test_chats_events_are_its_words(server: Running, nano: Pipeline) -> None:
    picture = Image.new("RGB", (128, 128), "red")
    shown = {"type": "image_url", "image_url": {"url": url_of(picture)}}
    question = "what colour is the background?"
    messages = [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]
    events = list(events_of(server.http(), create(server.http(), {"kind": "chat", "messages": messages, "seed": 0})))
    text = "".join(event["text"] for event in events if event["type"] == "text")
    message = events[-1]["job"]["result"]["choices"][0]["message"]
    assert text == message["content"] == nano.chat(question, [picture]).text


def test_reflections_events_are_its_rounds(server: Running, nano: Pipeline) -> None:
    prompt = "a small white star above a large purple square on a yellow background"
    body = {"kind": "reflect", "prompt": prompt, "rounds": 1, "num_inference_steps": 10, "seed": 1}
    http = server.http()
    events = list(events_of(http, create(http, body)))
    expected = nano.reflect(Request(prompt=prompt, steps=10, seed=1), rounds=1)
    rounds = [event for event in events if event["type"] == "round"]
    result = events[-1]["job"]["result"]
    assert len(rounds) == len(expected.rounds) == len(result["rounds"]) and result["best"] == expected.best
    for event, shown, judged in zip(rounds, result["rounds"], expected.rounds, strict=True):
        assert (event["critique"], event["grade"], event["edit"]) == (judged.critique, judged.grade, judged.edit)
        assert shown["b64_json"] == event["b64_json"]
        assert picture_of(event["b64_json"]).tobytes() == judged.result.images[0].tobytes()


def test_delete_cancels_a_job_that_runs_and_removes_one_that_ended(server: Running) -> None:
    http = server.http()
    job = create(http, SLOW)
    events = events_of(http, job)
    assert any(event["type"] == "step" for event in events)  # reads up to the first one
    assert http.delete(f"/v1/jobs/{job['id']}").status_code == 200
    *steps, last = events
    assert last["type"] == "cancelled" and all(event["step"] < SLOW["num_inference_steps"] for event in steps if "step" in event)
    assert http.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
    wait_until(lambda: server.is_idle)
    http.delete(f"/v1/jobs/{job['id']}")
    gone = http.get(f"/v1/jobs/{job['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "job_not_found")


def test_job_outlives_the_watcher_that_goes_away(server: Running) -> None:
    http = server.http()
    job = create(http, {**DRAW, "num_inference_steps": 40})
    for _ in events_of(http, job):
        break
    wait_until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")


def test_job_is_seen_and_cancelled_by_its_own_key_only(nano: Pipeline) -> None:
    keys = ["key-of-the-caller-A", "key-of-the-caller-B"]
    with serving(nano, ServerSettings(keys=frozenset(map(digest, keys)), max_open_jobs=2)) as server:
        mine, others = (server.http(key) for key in keys)
        job = create(mine, SLOW)
        for answer in (others.get(f"/v1/jobs/{job['id']}"), others.delete(f"/v1/jobs/{job['id']}")):
            assert answer.status_code == 404
        second = create(mine, SLOW)
        full = mine.post("/v1/jobs", json=SLOW)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full") and full.headers["retry-after"]
        create(others, DRAW)
        for each in (job, second):
            mine.delete(f"/v1/jobs/{each['id']}")
            wait_until(lambda each=each: mine.get(f"/v1/jobs/{each['id']}").json()["state"] == "cancelled")
        create(mine, DRAW)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x"}, "kind"),
        ({"kind": "paint", "prompt": "x"}, "kind"),
        ({"kind": "draw"}, "prompt"),
        ({"kind": "draw", "prompt": "x", "stream": True}, "stream"),
        ({"kind": "reflect", "prompt": "x", "rounds": 9}, "rounds"),
        ({"kind": "chat", "messages": [{"role": "user", "content": "x"}], "n": 2}, "n"),
    ],
)
def test_job_of_a_wrong_body_is_refused(server: Running, body: dict[str, Any], param: str | None) -> None:
    answer = server.http().post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def kept_job(**facts: Any) -> Job:
    return Job(body=DrawBody(prompt="a secret", images=["data:,"], seed=1, **facts), model="nano", owner="A", is_kept=True)


def done(size: int = 1, age_s: float = 0.0) -> Ending:
    outcome = Outcome(facts={"seeds": [1]}, pictures=(bytes(size),))
    return Ending(state="done", outcome=outcome, finished=time.time() - age_s)


def test_store_keeps_the_first_ending_and_gives_it_to_its_owner(tmp_path: Path) -> None:
    store, job, ending = Store(tmp_path), kept_job(), done(3)
    store.add(job)
    assert [each.id for each in store.unfinished()] == [job.id]
    assert store.finish(job, ending) == ending
    assert store.finish(job, Ending(state="cancelled")).state == "done"
    store.close()
    again = Store(tmp_path)
    found = again.find(job.id, "A")
    assert found is not None and found.ending == ending
    assert isinstance(found.body, DrawBody) and found.body.images == []
    assert again.find(job.id, "B") is None and again.unfinished() == []
    again.close()


def test_store_forgets_old_jobs_and_the_oldest_beyond_its_size() -> None:
    store, jobs = Store(), [kept_job() for _ in range(4)]
    failure = ApiError("engine_error", "it broke", "seed")
    endings = [*(done(100_000, 100 * age) for age in range(3)), Ending(state="failed", error=failure, finished=time.time() - 300)]
    for job, ending in zip(jobs, endings, strict=True):
        store.add(job)
        store.finish(job, ending)
    found = store.find(jobs[3].id, "A")
    assert found is not None and found.error is not None and found.error.facts() == failure.facts()
    store.expire(keep_s=250, keep_bytes=10**6)
    assert [store.find(job.id, "A") is not None for job in jobs] == [True, True, True, False]
    store.expire(keep_s=250, keep_bytes=210_000)
    assert [store.find(job.id, "A") is not None for job in jobs] == [True, True, False, False]
    store.close()


def test_cancelled_job_does_not_run_after_a_restart(tmp_path: Path) -> None:
    """It did where the server was killed before the step under way had ended. Nor does the job end otherwise afterwards."""
    store, job = Store(tmp_path), kept_job()
    store.add(job)
    store.cancel(job)
    assert store.unfinished() == []
    job.keep = store.finish
    job.end("done", outcome=Outcome(facts={}))
    assert (job.state, job.outcome) == ("cancelled", None)
    store.close()


def test_job_that_can_not_be_read_fails_and_the_others_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One such job kept the server from starting, and its prompt was printed."""
    store, jobs = Store(tmp_path), [kept_job(), kept_job()]
    for job in jobs:
        store.add(job)
    store.close()
    body = '{"kind": "draw", "prompt": "a secret", "new": 1}'
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
        database.execute("UPDATE jobs SET body = ? WHERE id = ?", (body, jobs[0].id))
    again = Store(tmp_path)
    assert [job.id for job in again.unfinished()] == [jobs[1].id]
    failed = again.find(jobs[0].id, "A")
    assert failed is not None and failed.error is not None and "can't be read by this release" in str(failed.error)
    printed = capfd.readouterr().err
    assert jobs[0].id in printed and "secret" not in printed
    again.close()


def test_two_servers_never_share_a_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(OmniGen2Error, match="another server uses the state"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_ending_that_can_not_be_written_is_kept_in_memory_until_it_can(nano: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told as a failure, ran again after a restart, and blocked its key meanwhile."""

    def full(self: Store, job: Job, ending: Ending) -> Ending:
        raise ApiError("engine_error", "the server's state can't be written: disk full")

    with serving(nano, ServerSettings(max_open_jobs=1)) as server:
        http = server.http()
        with monkeypatch.context() as patch:
            patch.setattr(Store, "finish", full)
            job = create(http, DRAW)
            assert list(events_of(http, job))[-1]["type"] == "done"
        finished = http.get(f"/v1/jobs/{job['id']}").json()
        assert finished["state"] == "done" and finished["result"]["data"]
        create(http, DRAW)
        server.service._write_late()
        assert not server.service._unwritten and http.get(f"/v1/jobs/{job['id']}").json() == finished


def test_jobs_sent_at_once_are_no_more_than_a_key_may_have(nano: Pipeline) -> None:
    """11 of 40 were accepted: they were counted before they were checked, and noted afterwards."""
    with serving(nano) as server, ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda _: server.http().post("/v1/jobs", json=SLOW).status_code, range(20)))
    assert sorted(statuses) == [202] * 8 + [429] * 12


def test_no_job_is_lost_when_the_server_is_killed_at_any_moment(tmp_path: Path) -> None:
    """Four times. Each accepted job ends, and a result that was seen once is the same ever after."""
    moments, accepted, delivered = random.Random(0), [], dict[str, Any]()

    def look(server: ServerProcess) -> None:
        for job in accepted:
            shown = server.http.get(f"/v1/jobs/{job}").json()
            assert shown["state"] in ("queued", "running", "done"), shown
            if shown["state"] == "done":
                assert delivered.setdefault(job, shown["result"]["data"]) == shown["result"]["data"]

    for _ in range(4):
        server = ServerProcess(*state(tmp_path))
        server.wait()
        look(server)
        killed_at = time.monotonic() + moments.uniform(0, 0.6)
        while True:
            answer = server.http.post("/v1/jobs", json={**DRAW, "num_inference_steps": moments.choice([1, 8, 20]), "seed": None})
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])
            else:
                assert answer.json()["error"]["code"] == "queue_full"
                time.sleep(0.01)
            if time.monotonic() >= killed_at:
                break
        server.end()
    with server_process(*state(tmp_path)) as server:
        wait_until(lambda: all(server.http.get(f"/v1/jobs/{job}").json()["state"] == "done" for job in accepted), 120)
        look(server)
    assert len(delivered) == len(accepted) >= 5


def test_signal_lets_the_drawing_end_and_keeps_the_waiting_job(tmp_path: Path) -> None:
    with server_process("--max-active", 1, *state(tmp_path)) as server:
        first, waiting = create(server.http, {**DRAW, "num_inference_steps": 100}), create(server.http, DRAW)
        wait_until(lambda: server.http.get(f"/v1/jobs/{first['id']}").json()["progress"])
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.http.get("/ready").status_code == 503)
        refused = server.http.post("/v1/jobs", json=DRAW)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert server.process.wait(60) == 0
    with server_process(*state(tmp_path)) as server:
        assert server.http.get(f"/v1/jobs/{first['id']}").json()["state"] == "done"
        wait_until(lambda: server.http.get(f"/v1/jobs/{waiting['id']}").json()["state"] == "done")


def test_job_that_does_not_end_in_time_is_suspended_and_runs_after_the_restart(tmp_path: Path) -> None:
    """Its watchers were told that it failed."""
    with server_process("--drain-seconds", 0.2, *state(tmp_path)) as server:
        job = create(server.http, SLOW)
        events = events_of(server.http, job)
        next(events)
        server.process.send_signal(signal.SIGTERM)
        assert list(events)[-1] == {"type": "suspended"}
        assert server.process.wait(60) == 0
    with server_process(*state(tmp_path)) as server:
        wait_until(lambda: server.http.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")


def test_second_signal_ends_the_server_at_once() -> None:
    with server_process() as server:
        create(server.http, SLOW)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: server.http.get("/ready").status_code == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        printed = server.end()
    assert "jobs are kept in memory only" in printed and PROMPT not in printed


def test_drain_tells_those_who_wait_without_a_state() -> None:
    with server_process("--drain-seconds", 0.2) as server:
        job = create(server.http, SLOW)
        events = events_of(server.http, job)
        next(events)
        server.process.send_signal(signal.SIGTERM)
        last = list(events)[-1]
        assert (last["type"], last["error"]["code"]) == ("failed", "shutting_down")
        assert server.process.wait(60) == 0
