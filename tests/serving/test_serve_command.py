"""`omnigen2 serve`: what it refuses before it serves, and that only it needs the extra."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.command import Command
from tests.serving.processes import server_process
from tests.serving.running import Running


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "--host '0.0.0.0' lets other machines in: give --api-key-file, or leave --host out"),
        (("--port", 0), "--port=0 is out of range; 1 to 65535 are allowed"),
        (("--max-queue", 0), "--max-queue=0 is out of range"),
        (("--max-active", 65), "--max-active=65 is out of range"),
        (("--drain-seconds", "nan"), "--drain-seconds=nan is out of range"),
        (("--api-key-file", "nowhere"), "--api-key-file 'nowhere' can't be read: No such file or directory"),
        (("--bundle", "=x"), "--bundle '=x' is not NAME=PATH"),
        (("--bundle", "a=nano", "--bundle", "a=nano"), "--bundle: each bundle needs a name of its own"),
        (("--bundle", "a=nowhere"), "'nowhere' is not a bundle"),
        (("--state", "/dev/null/x"), "the state in '/dev/null/x' can't be used"),
        (("--max-replicas", 2), "the number of replicas and what each reserves belong to --ray ADDRESS"),
    ],
)
def test_serve_with_a_bad_value_says_so(command: Command, words: tuple[object, ...], said: str) -> None:
    assert said in command.fails("serve", *words)


@pytest.mark.parametrize(
    ("text", "said"), [("# none\n\n", "holds no key"), ("short\n", "holds a key of less than 16 characters")]
)
def test_serve_with_a_bad_key_file_says_so(command: Command, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    assert said in command.fails("serve", "--api-key-file", file)


def test_serve_without_the_extra_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_fastapi(name: str, *rest: Any) -> Any:
        return None if name == "fastapi" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_fastapi)
    assert command.fails("serve") == 'error: this needs fastapi: pip install "omnigen2-rt[serve]"'


def test_serve_on_ray_without_the_extra_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_ray(name: str, *rest: Any) -> Any:
        return None if name == "ray" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_ray)
    assert command.fails("serve", "--ray", "local") == 'error: this needs ray: pip install "omnigen2-rt[ray]"'


def test_server_without_ray_loads_nothing_of_it() -> None:
    program = (
        "import sys, omnigen2_rt.commands.serve, omnigen2_rt.serving.server, omnigen2_rt.serving.service;"
        "print({'ray', 'omnigen2_rt.distributed'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.strip() == "set()", finished.stderr


def test_other_commands_load_nothing_of_the_server() -> None:
    program = (
        "import sys, omnigen2_rt.cli, omnigen2_rt; omnigen2_rt.load().close();"
        "print({'fastapi', 'uvicorn', 'starlette', 'prometheus_client', 'omnigen2_rt.serving'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.strip() == "set()", finished.stderr


def test_serve_offers_bundles_by_name_to_those_with_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# comment\na-key-of-the-first-caller\n", encoding="utf-8")
    words = ("--host", "127.0.0.1", "--api-key-file", keys, "--bundle", "small=nano", "--bundle", "other=nano")
    with server_process(*words) as server:
        assert server.http.get("/v1/models").status_code == 401
        models = server.http.get("/v1/models", headers={"authorization": "Bearer a-key-of-the-first-caller"}).json()
    assert [model["id"] for model in models["data"]] == ["small", "other"]


def test_serve_on_a_port_that_is_taken_says_so_before_it_announces(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = command.fails("serve", "--port", port)
    assert f"can't listen at --host '127.0.0.1', --port {port}: Address already in use" in said and "serving" not in said


def test_serve_logs_requests_without_bodies_and_queries() -> None:
    with server_process() as server:
        server.http.post("/v1/images/generations?secret=1", json={"prompt": "a secret", "num_inference_steps": 1})
        server.http.get("/nowhere/%0Aelse")
        server.process.terminate()  # a request is logged after its answer: killing the server could lose the line
        server.process.wait(60)
        said = server.end()
    assert "POST /v1/images/generations 200" in said and "GET /nowhere/\\nelse 404" in said and "secret" not in said


def test_method_that_a_path_has_not_is_answered_with_those_it_has(server: Running) -> None:
    answer = server.http().put("/v1/jobs/job_1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    assert "doesn't take PUT" in answer.json()["error"]["message"]
