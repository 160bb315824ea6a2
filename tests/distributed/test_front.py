"""The server in front of a replica: OpenAI's client sees no difference, and neither does it see a replica that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from omnigen2_rt import Request, load
from omnigen2_rt.batch.digests import bundle_digest
from omnigen2_rt.distributed.dispatcher import Dispatcher
from omnigen2_rt.distributed.front import RemoteBackend, stand_in
from omnigen2_rt.distributed.nodes import Engine
from omnigen2_rt.distributed.remote import RemoteWorker
from omnigen2_rt.distributed.replica import Replica, ReplicaPlan
from omnigen2_rt.runtime.errors import BackendError, BundleError
from omnigen2_rt.runtime.load_options import LoadOptions
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.metrics import EngineMetrics, Metrics
from omnigen2_rt.serving.queue import Queue
from omnigen2_rt.serving.service import Service
from omnigen2_rt.serving.settings import ServerSettings
from tests.distributed.doubles import InProcess, event_loop
from tests.serving.running import Running, picture_of, running, wait_until

PROMPT = "a large red circle on a blue background"
OPTIONS = LoadOptions(backend="ort-cpu", precision="fp32", threads=1)
PLAN = ReplicaPlan(name="nano", path="nano", digest=bundle_digest("nano"), has_gpu=False, options=OPTIONS)
ENGINE = Engine("ort-cpu", "fp32", "fp32")


@dataclass
class Front:
    """A server, and what sends its tasks."""

    server: Running
    replica: InProcess


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with event_loop() as loop:
        replica = InProcess(Replica(PLAN), loop)

        def dispatch(name: str, pipeline: Pipeline, settings: ServerSettings, metrics: Metrics) -> Queue:
            worker = RemoteWorker(replica, EngineMetrics(metrics, name))
            return Dispatcher(worker, max_active=2, max_queue=settings.max_queue, describe=lambda: {"replicas": {"running": 1}})

        with running(Service({"nano": stand_in(PLAN, ENGINE)}, ServerSettings(), dispatch)) as server:
            yield Front(server, replica)


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


def test_strict_client_draws_on_the_replica_what_the_pipeline_draws(front: Front, nano: Pipeline) -> None:
    answer = front.server.client().images.generate(prompt=PROMPT, n=2, extra_body={"num_inference_steps": 4, "seed": 3})
    drawn = [picture_of(picture.b64_json).tobytes() for picture in answer.data or []]
    assert drawn == [nano.generate(Request(prompt=PROMPT, steps=4, seed=seed)).images[0].tobytes() for seed in (3, 4)]


def test_strict_client_streams_partial_pictures_of_a_replica_that_is_lost_once_each(front: Front, nano: Pipeline) -> None:
    before = front.replica.sent
    extra = {"num_inference_steps": 40, "seed": 3}
    stream = front.server.client().images.generate(prompt=PROMPT, stream=True, partial_images=3, extra_body=extra)
    events = []
    for event in stream:
        events.append(event)
        if len(events) == 1:
            assert front.replica.lose() == 1
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * 3 + ["completed"]
    expected = nano.generate(Request(prompt=PROMPT, steps=40, seed=3)).images[0]
    assert picture_of(events[-1].b64_json).tobytes() == expected.tobytes() and front.replica.sent == before + 2


def test_strict_client_streams_words(front: Front) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    chat = front.server.client().chat.completions
    whole = chat.create(model="nano", messages=messages, seed=0, extra_body={"modalities": ["text"]})
    stream = chat.create(model="nano", messages=messages, seed=0, stream=True, extra_body={"modalities": ["text"]})
    words = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert words == whole.choices[0].message.content != ""


def test_job_of_a_replica_shows_its_steps(front: Front) -> None:
    http = front.server.http()
    body = {"kind": "draw", "prompt": PROMPT, "num_inference_steps": 8, "seed": 3}
    job = http.post("/v1/jobs", json=body).json()
    wait_until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")
    counted = [line for line in http.get("/metrics").text.splitlines() if line.startswith("omnigen2_step_seconds_count")]
    assert float(counted[0].split()[-1]) >= 8


def test_disconnect_frees_the_replica(front: Front) -> None:
    http = front.server.http()
    job = http.post("/v1/jobs", json={"kind": "draw", "prompt": PROMPT, "num_inference_steps": 200}).json()
    wait_until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["progress"])
    http.delete(f"/v1/jobs/{job['id']}")
    wait_until(lambda: front.server.is_idle and not front.replica.open)
    assert http.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"


def test_capabilities_name_the_replicas_engine(front: Front) -> None:
    nano = front.server.http().get("/v1/capabilities").json()["models"]["nano"]
    assert (nano["backend"], nano["precision"], nano["replicas"]) == ("ort-cpu", "fp32", {"running": 1})


def test_request_is_refused_before_it_is_sent(front: Front) -> None:
    before = front.replica.sent
    answer = front.server.http().post("/v1/images/generations", json={"prompt": PROMPT, "size": "12x64"})
    assert (answer.status_code, answer.json()["error"]["param"], front.replica.sent) == (400, "size", before)


def test_replica_of_another_bundle_does_not_start() -> None:
    with pytest.raises(BundleError, match=r"'nano' holds another bundle \(.{12}\) than on the server's machine \(000000000000\)"):
        ReplicaPlan(name="nano", path="nano", digest="0" * 64, has_gpu=False).open()


def test_stand_in_never_runs() -> None:
    with pytest.raises(BackendError, match="this process has no engine"):
        stand_in(PLAN, ENGINE).generate(Request(prompt=PROMPT, steps=1))
    assert RemoteBackend(ENGINE).name == "ort-cpu"
