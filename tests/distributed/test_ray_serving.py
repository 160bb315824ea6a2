"""The server in front of Ray: two nodes of this machine, with a replica each.

The tests go in the order of the file: the second replica is started by load, and the last ones kill both nodes.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnigen2_rt import Request, load
from omnigen2_rt.batch.digests import bundle_digest
from omnigen2_rt.distributed.dispatcher import Dispatcher
from omnigen2_rt.distributed.front import replicated_service
from omnigen2_rt.distributed.nodes import check_nodes, check_room, choose_engine
from omnigen2_rt.distributed.replica import ReplicaPlan
from omnigen2_rt.distributed.settings import ReplicaSettings
from omnigen2_rt.runtime.errors import OmniGen2Error
from omnigen2_rt.runtime.load_options import LoadOptions
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.settings import ServerSettings
from tests.distributed.clusters import STORE_BYTES, replica_seconds, short_folder, with_nodes
from tests.serving.processes import ServerProcess
from tests.serving.running import Running, picture_of, png_bytes, running, wait_until

pytestmark = pytest.mark.ray

PROMPT = "a large red circle on a blue background"
APP = "tests"
FIRST, OTHER = {"num_cpus": 1}, {"num_cpus": 1, "num_gpus": 1}
"""The other node says that it has a GPU: Ray counts what it is told."""


@dataclass
class Front:
    """A server in front of a cluster."""

    server: Running
    cluster: Any
    nodes: list[Any]
    notes: list[str]

    @property
    def replicas(self) -> dict[str, Any]:
        """The capabilities' report of them."""
        replicas: dict[str, Any] = self.server.http().get("/v1/capabilities").json()["models"]["nano"]["replicas"]
        return replicas

    @property
    def resent(self) -> float:
        """Tasks that were sent again."""
        lines = self.server.http().get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith("omnigen2_resent{"))

    def draw(self, seed: int, steps: int = 8) -> bytes:
        """A drawing's pixels."""
        answer = self.server.client().images.generate(prompt=PROMPT, extra_body={"num_inference_steps": steps, "seed": seed})
        assert answer.data is not None
        return picture_of(answer.data[0].b64_json).tobytes()


@pytest.fixture(scope="module")
def front(cluster: Any) -> Iterator[Front]:
    replicas = ReplicaSettings(least=1, most=2, upscale_delay_s=0.0)
    options = LoadOptions(backend="ort-cpu", precision="fp32", threads=1)
    notes: list[str] = []
    with with_nodes(cluster, FIRST, OTHER) as nodes:
        settings = ServerSettings(max_queue=100)
        opened = replicated_service(
            {"nano": "nano"}, settings, replicas, address="auto", name=APP, options=options, note=notes.append
        )
        with opened as service, running(service) as server:
            yield Front(server, cluster, nodes, notes)


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


def draw_until(condition: Callable[[], bool], front: Front, pool: ThreadPoolExecutor) -> list[bytes]:
    """Draw with several clients until the condition holds."""
    deadline, drawn = time.monotonic() + 120, list[bytes]()
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        drawn += pool.map(front.draw, [7] * 8)
    return drawn


def test_strict_client_draws_edits_and_chats(front: Front, nano: Pipeline) -> None:
    expected = nano.generate(Request(prompt=PROMPT, steps=8, seed=1)).images[0].tobytes()
    assert front.draw(1) == expected
    client, red = front.server.client(), Image.new("RGB", (128, 128), "red")
    extra = {"num_inference_steps": 4, "seed": 5}
    edited = client.images.edit(image=png_bytes(red), prompt="make it blue", extra_body=extra)
    expected = nano.generate(Request(prompt="make it blue", images=red, steps=4, seed=5)).images[0].tobytes()
    assert edited.data and picture_of(edited.data[0].b64_json).tobytes() == expected
    messages: Any = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="nano", messages=messages, seed=0, extra_body={"modalities": ["text"]})
    assert answer.choices[0].message.content == nano.chat("hello", may_draw=False).text


def test_strict_client_streams_partial_pictures(front: Front, nano: Pipeline) -> None:
    extra = {"num_inference_steps": 12, "seed": 3}
    events = list(front.server.client().images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body=extra))
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * 2 + ["completed"]
    expected = nano.generate(Request(prompt=PROMPT, steps=12, seed=3)).images[0]
    assert picture_of(events[-1].b64_json).tobytes() == expected.tobytes()


def test_disconnect_stops_the_replicas_engine_within_a_step(front: Front) -> None:
    """The process stops computing: a whole drawing would take it many times as long."""
    host, port = front.server.url.removeprefix("http://").split(":")
    started = time.perf_counter()
    front.draw(1, 20)
    drawing_s = 10 * (time.perf_counter() - started)  # of 200 steps
    body = f'{{"prompt": "{PROMPT}", "num_inference_steps": 200}}'.encode()
    before = replica_seconds(APP)
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: sum(replica_seconds(APP).values()) > sum(before.values()) + 0.1)
    wait_until(lambda: front.server.is_idle)
    stopped = replica_seconds(APP)
    assert sum(stopped.values()) - sum(before.values()) < drawing_s / 2
    time.sleep(0.5)
    assert sum(replica_seconds(APP).values()) - sum(stopped.values()) < 0.2


def test_load_starts_the_second_replica_and_either_gives_the_same_bytes(front: Front, nano: Pipeline) -> None:
    expected = nano.generate(Request(prompt=PROMPT, steps=8, seed=7)).images[0].tobytes()
    assert front.replicas["running"] == 1 and (front.replicas["min"], front.replicas["max"]) == (1, 2)
    with ThreadPoolExecutor(4) as pool:
        drawn = draw_until(lambda: front.replicas["running"] == 2, front, pool)
        before = replica_seconds(APP)
        drawn += pool.map(front.draw, [7] * 16)
    worked = [seconds - before[number] for number, seconds in replica_seconds(APP).items()]
    assert len(worked) == 2 and min(worked) > 0.1
    assert set(drawn) == {expected}


def test_restart_replaces_the_replicas_while_requests_go_on(front: Front) -> None:
    (served,) = front.server.service.bundles.values()
    dispatcher = served.scheduler
    assert isinstance(dispatcher, Dispatcher)
    before, expected, drawn = set(replica_seconds(APP)), front.draw(7), list[bytes]()
    with ThreadPoolExecutor(4) as pool:
        under_way = pool.map(front.draw, [7] * 8)
        signal.raise_signal(signal.SIGHUP)
        drawn += under_way
        wait_until(lambda: front.replicas["status"] == "deploying")
        drawn += draw_until(
            lambda: front.replicas["status"] == "running" and not before & set(replica_seconds(APP)), front, pool
        )
    assert set(drawn) == {expected} and len(replica_seconds(APP)) == 2


def test_fraction_of_a_gpu_is_found_and_another_bundle_is_refused(front: Front) -> None:
    options = LoadOptions(backend="ort-cpu")
    plan = ReplicaPlan(name="nano", path="nano", digest=bundle_digest("nano"), has_gpu=True, options=options)
    assert choose_engine(plan, ReplicaSettings(cpus=0.0, gpus=0.5)) == ("ort-cpu", "fp32", "fp32")
    check_nodes(["nano"], ReplicaSettings(gpus=1.0))
    with pytest.raises(OmniGen2Error, match="a replica can't open 'nano': 'nano' holds another bundle"):
        choose_engine(replace(plan, digest="0" * 64), ReplicaSettings(cpus=0.0))
    with pytest.raises(OmniGen2Error, match="no node of the cluster has 1 processors and 8 GPUs"):
        check_nodes(["nano"], ReplicaSettings(gpus=8.0))


def test_cluster_without_room_is_noted_at_once(front: Front) -> None:
    """The server waited silently for two minutes."""
    notes: list[str] = []
    check_room(3, ReplicaSettings(cpus=1.0), notes.append, can_grow=True)
    has = "the cluster has 2 processors, [01] of them free, on 3 nodes"
    (note,) = notes
    assert re.fullmatch(f"3 replicas that reserve 1 processors each are to start; {has}: waiting up to 120 s for more", note)
    with pytest.raises(OmniGen2Error, match=f"^3 replicas .*; {has}: ask for fewer, or reserve less$"):
        check_room(3, ReplicaSettings(cpus=1.0), notes.append, can_grow=False)
    check_room(2, ReplicaSettings(cpus=0.0), notes.append, can_grow=False)
    assert len(notes) == 1


def test_node_that_dies_costs_none_of_sixty_drawings(front: Front, nano: Pipeline) -> None:
    expected = [nano.generate(Request(prompt=PROMPT, steps=6, seed=seed)).images[0].tobytes() for seed in range(60)]
    before, done = replica_seconds(APP), list[int]()

    def draw(seed: int) -> bytes:
        drawn = front.draw(seed, 6)
        done.append(seed)
        return drawn

    with ThreadPoolExecutor(60) as pool:
        drawn = pool.map(draw, range(60))
        wait_until(lambda: len(done) >= 10)
        front.cluster.remove_node(front.nodes[1], allow_graceful=False)
        assert list(drawn) == expected
    assert len(replica_seconds(APP).keys() & before.keys()) == 1 and front.resent > 0


def test_request_without_any_replica_ends_with_an_error_and_is_drawn_where_one_comes_in_time(
    front: Front, nano: Pipeline, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It never ended."""
    (served,) = front.server.service.bundles.values()
    assert isinstance(served.scheduler, Dispatcher)
    front.cluster.remove_node(front.nodes[0], allow_graceful=False)
    wait_until(lambda: not replica_seconds(APP))
    with monkeypatch.context() as patched:
        patched.setattr(served.scheduler._worker, "_patience_s", 2.0)
        answer = front.server.http().post("/v1/images/generations", json={"prompt": PROMPT, "num_inference_steps": 8})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_replica"), answer.text
        assert answer.headers["retry-after"] == "10"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(front.draw, 7)
        front.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        assert waiting.result() == nano.generate(Request(prompt=PROMPT, steps=8, seed=7)).images[0].tobytes()
    assert all(note.startswith("Ray: ") and "\n" not in note for note in front.notes), front.notes
    said = capfd.readouterr()
    assert "raylet" not in said.out + said.err


def test_command_serves_on_a_cluster_of_its_own_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with short_folder() as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        check_command(tmp_path)


def check_command(tmp_path: Path) -> None:
    server = ServerProcess("--ray", "local", "--cpus-per-replica", "0.5", "--state", tmp_path)
    try:
        server.wait(120)
        body = {"prompt": PROMPT, "num_inference_steps": 4, "seed": 1}
        assert server.http.post("/v1/images/generations", json=body).status_code == 200
        children = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
        assert children
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        wait_until(lambda: not any(Path(f"/proc/{number}").exists() for number in children))
    finally:
        printed = server.end()
    assert "serving nano at" in printed and "Traceback" not in printed
