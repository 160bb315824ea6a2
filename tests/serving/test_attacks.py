"""Hostile requests get the right code, take no memory, and the server goes on."""

from __future__ import annotations

import asyncio
import io
import os
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image
from pydantic import ValidationError

from omnigen2_rt import Request
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.budget import ByteBudget
from omnigen2_rt.serving.errors import ApiError
from omnigen2_rt.serving.guard import digest
from omnigen2_rt.serving.requests import fetching
from omnigen2_rt.serving.requests.bodies import ChatBody, DrawBody
from omnigen2_rt.serving.requests.fetching import Fetcher, is_public
from omnigen2_rt.serving.requests.pictures import data_url
from omnigen2_rt.serving.settings import ServerSettings
from tests.serving.running import Running, png_bytes, serving, url_of, wait_until

KEY = "a-key-of-more-than-16-characters"
QUICK: dict[str, Any] = {"num_inference_steps": 1}


@pytest.fixture(autouse=True, scope="module")
def first_drawing(nano: Pipeline) -> None:
    """Takes the memory that every drawing needs."""
    nano.generate(Request(prompt="x", steps=2))


@pytest.fixture(autouse=True)
def memory_stays(first_drawing: None) -> Iterator[None]:
    """No attack takes 100 MB."""
    before = resident_bytes()
    yield
    assert resident_bytes() - before < 100e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that announces this size and compresses its white pixels to little."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 2) * min(height, 1000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def edit(server: Running, picture: bytes) -> httpx2.Response:
    return server.http().post("/v1/images/edits", data={"prompt": "x"}, files={"image": ("a.png", picture)})


def assert_refused(answer: httpx2.Response, status: int, code: str, param: str | None = None) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert param is None or error["param"] == param


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 8), (100_000, 100_000)])
def test_picture_that_expands_to_gigabytes_is_refused_before_it_is_decoded(server: Running, size: tuple[int, int]) -> None:
    answer = edit(server, png_of_size(*size))
    assert answer.status_code in (400, 413) and answer.json()["error"]["param"] in ("images[0]", "image", None)
    assert edit(server, png_bytes(Image.new("RGB", (64, 64)))).status_code == 200


@pytest.mark.parametrize("picture", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000), b"<svg/>"])
def test_file_that_is_no_picture_is_refused(server: Running, picture: bytes) -> None:
    assert_refused(edit(server, picture), 400, "image_unreadable", "images[0]")


def test_large_file_is_refused(server: Running) -> None:
    assert_refused(edit(server, bytes(21 * 2**20)), 413, "too_large", "image[0]")


@pytest.mark.parametrize("text", ["/etc/passwd", "file:///etc/passwd", "data:image/png;base64,/etc/passwd"])
def test_text_in_place_of_a_picture_is_never_opened(server: Running, text: str) -> None:
    http = server.http()
    form = http.post("/v1/images/edits", data={"prompt": "x", "image": text}, files={"unused": b""})
    assert form.status_code == 400 and "root:" not in form.text
    body = {"prompt": "x", "images": [text]}
    for path in ("/v1/images/generations", "/v1/images/edits"):
        answer = http.post(path, json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "images[0]" and "root:" not in answer.text


@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_65_megabytes_is_refused(server: Running, chunked: bool) -> None:
    part = bytes(2**20)
    head = {} if chunked else {"content-length": str(65 * 2**20)}
    headers = {"content-type": "application/json", **head}
    answer = server.http().post("/v1/chat/completions", content=(part for _ in range(65)), headers=headers)
    assert_refused(answer, 413, "too_large")


def raw(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_slow_senders_are_cut_off(nano: Pipeline) -> None:
    """One never ends its headers, one not its second request's, one not its body. Others are served meanwhile."""
    with serving(nano, ServerSettings(header_timeout_s=0.5, body_timeout_s=0.5)) as server:
        connections = [raw(server) for _ in range(3)]
        connections[0].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow:")
        connections[1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        connections[2].sendall(head)
        assert server.http().get("/health").status_code == 200
        received = [b"".join(iter(lambda each=each: each.recv(4096), b"")) for each in connections]
        for each in connections:
            each.close()
    assert received[0] == b"" and received[1].startswith(b"HTTP/1.1 200") and received[1].count(b"HTTP/1.1") == 1
    assert received[2].startswith(b"HTTP/1.1 408") and b'"timeout"' in received[2]


def test_wrong_key_is_refused_everywhere_but_where_nothing_is_told(nano: Pipeline) -> None:
    with serving(nano, ServerSettings(keys=frozenset([digest(KEY)]))) as server:
        for key in (None, "wrong", KEY[:-1]):
            for path in ("/v1/models", "/v1/capabilities", "/metrics", "/v1/jobs/x"):
                assert_refused(server.http(key).get(path), 401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").images.generate(prompt="x")
        assert server.http(KEY).get("/v1/models").status_code == 200
        assert [server.http().get(path).status_code for path in ("/health", "/ready", "/")] == [200] * 3


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"host": "evil.example"}, {"origin": "null"}, {"host": "[::1"}, {"host": ""}],
)
def test_pages_of_other_sites_reach_nothing(server: Running, headers: dict[str, str]) -> None:
    assert_refused(server.http().post("/v1/jobs", json={}, headers=headers), 403, "origin_not_allowed")
    assert server.http().get("/health", headers={"origin": server.url}).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "::ffff:127.0.0.1", "fe80::1%eth0", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1"),
    ],
)
def test_addresses_that_are_not_public_are_never_fetched(address: str) -> None:
    assert not is_public(address)
    for public in ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"):
        assert is_public(public)
    host = f"[{address}]" if ":" in address and "%" not in address else address
    with pytest.raises(ApiError) as refused:
        fetch(f"http://{host}/latest", address)
    assert refused.value.code == "image_url_not_allowed"


@pytest.mark.parametrize(
    "url", ["http://elsewhere.example/a.png", "ftp://allowed.example/a", "file:///etc/passwd", "//x", "http://[::"]
)
def test_other_addresses_are_refused_unless_their_host_is_allowed(url: str) -> None:
    with pytest.raises(ApiError) as refused:
        fetch(url, "allowed.example")
    assert refused.value.code == "image_url_not_allowed"


@contextmanager
def picture_host(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """A host of this machine that counts as public, and answers each request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            for start in range(0, len(body), 2**20):
                time.sleep(pause_s)
                self.wfile.write(body[start : start + 2**20])

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    with HTTPServer(("127.0.0.1", 0), Handler) as host:
        thread = threading.Thread(target=host.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{host.server_port}/a.png?x=1"
        host.shutdown()
        thread.join()


def test_picture_of_an_allowed_host_is_fetched(nano: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = png_bytes(Image.new("RGB", (64, 64), "red"))
    settings = ServerSettings(image_hosts=frozenset(["127.0.0.1"]))
    with picture_host(monkeypatch, 200, picture) as url, serving(nano, settings) as server:
        bodies = [{"prompt": "x", "images": [each], "seed": 1, **QUICK} for each in (url, data_url(picture))]
        answers = [server.http().post("/v1/images/generations", json=body).json()["data"] for body in bodies]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("status", "body", "code"), [(302, b"", "image_unreadable"), (200, bytes(21 * 2**20), "too_large")])
def test_redirects_and_large_answers_are_refused(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, code: str
) -> None:
    with picture_host(monkeypatch, status, body) as url, pytest.raises(ApiError) as refused:
        fetch(url, "127.0.0.1")
    assert refused.value.code == code


def test_slow_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.3)
    with picture_host(monkeypatch, 200, bytes(3 * 2**20), pause_s=0.25) as url, pytest.raises(ApiError, match="took longer"):
        fetch(url, "127.0.0.1")


def test_many_pictures_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    with picture_host(monkeypatch, 200, bytes(300)) as url:
        with pytest.raises(ApiError, match="21 pictures are to be fetched; at most 20"):
            fetch(url, "127.0.0.1", 21)
        with pytest.raises(ApiError, match="fetched pictures are larger than"):
            fetch(url, "127.0.0.1", 4, most_bytes=1000)


def fetch(url: str, host: str, count: int = 1, most_bytes: int = 2**26) -> None:
    """Fetch a picture from a host that is allowed, so many times in one request."""

    async def fetched() -> None:
        fetcher = Fetcher([host], most_bytes)
        try:
            await fetcher.fetch([(url, "image")] * count)
        finally:
            fetcher.close()

    asyncio.run(fetched())


CHAT = "/v1/chat/completions"


def messages(*pictures: str, text: str = "what is it?") -> list[dict[str, Any]]:
    """A conversation with a question about each picture."""
    questions = [[{"type": "image_url", "image_url": url}, {"type": "text", "text": text}] for url in pictures]
    asked = [{"role": "user", "content": question} for question in questions]
    answer = {"role": "assistant", "content": "a circle"}
    return [message for question in asked for message in (question, answer)][:-1]


def test_pictures_that_are_too_large_together_are_refused_before_they_are_decoded(server: Running) -> None:
    """Ten turns with pictures of 40 megapixels took 10 GB."""
    large = url_of(Image.new("1", (6320, 6320)))
    http = server.http()
    answer = http.post(CHAT, json={"messages": messages(large, large, large)})
    assert_refused(answer, 413, "too_large")
    assert answer.json()["error"]["param"] == "messages[4].content[0].image_url"
    assert_refused(http.post("/v1/images/edits", json={"prompt": "x", "images": [large] * 3}), 413, "too_large")
    many = http.post(CHAT, json={"messages": messages(*[url_of(Image.new("RGB", (32, 32)))] * 101)})
    assert many.json()["error"]["message"] == "messages have 101 pictures; at most 100 are taken: leave out old ones"


def test_long_history_is_refused_before_it_is_tokenized(server: Running, nano: Pipeline) -> None:
    """17 MB of text held the engine for two minutes."""
    most = 16 * nano.language_model.chat.max_context_tokens
    answer = server.http().post(CHAT, json={"messages": [{"role": "user", "content": "a" * (most + 1)}]})
    assert_refused(answer, 400, "invalid_value")
    assert f"have {most + 1} characters; this model takes at most {most}" in answer.json()["error"]["message"]


def test_bodies_that_are_too_large_together_are_refused(nano: Pipeline) -> None:
    blank = url_of(Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3)))
    most = 5 * len(blank)
    with serving(nano, ServerSettings(max_held_bytes=most, max_active=1)) as server:
        http, body = server.http(), {"prompt": "x", "num_inference_steps": 200, "kind": "draw", "images": [blank]}
        jobs = [http.post("/v1/jobs", json=body) for _ in range(3)]
        assert [job.status_code for job in jobs] == [202, 202, 429], jobs[-1].text
        assert_refused(jobs[-1], 429, "queue_full")
        for job in jobs[:2]:
            http.delete(job.headers["location"])
        wait_until(lambda: server.is_idle)
        assert http.post("/v1/images/generations", json={"prompt": "x", "images": [blank], **QUICK}).status_code == 200
        wait_until(lambda: not server.service.held.count)


def test_key_holds_at_most_half_of_what_all_may_hold() -> None:
    """One key's waiting requests shut out all others."""
    budget = ByteBudget(100)
    budget.take("A", 50)
    with pytest.raises(ApiError, match="unfinished requests of this key would be more than"):
        budget.take("A", 1)
    budget.take("B", 50)
    with pytest.raises(ApiError, match="unfinished requests of all callers"):
        budget.take("C", 1)
    budget.give("A", 50)
    budget.take("C", 1)
    assert budget.count == 51


@pytest.mark.parametrize(
    "body",
    [
        {str(number): 0 for number in range(30_000)},
        {"prompt": "x", "images": [[0]] * 30_000},
        {"prompt": 'a "quoted" [text], ' * 30_000, "tools": [{}] * 21_000},
    ],
    ids=["keys", "lists", "objects"],
)
def test_json_of_many_values_is_refused_before_it_is_read(server: Running, body: dict[str, Any]) -> None:
    """14 MB of unknown keys took 1.3 GB, and the event loop stood still for ten seconds."""
    answer = server.http().post("/v1/images/generations", json=body)
    assert_refused(answer, 413, "too_large")
    assert answer.json()["error"]["message"] == "the body has more than 20000 JSON values"


def test_many_commas_in_a_text_are_no_values(server: Running) -> None:
    answer = server.http().post("/v1/images/generations", json={"prompt": 'a, b \\" [c], ' * 3000, **QUICK})
    assert_refused(answer, 400, "invalid_value", "prompt")


def test_jpeg_of_many_scans_is_refused_before_it_is_decoded(server: Running) -> None:
    """Each scan goes over all pixels and takes 60 bytes: a small file was decoded for hours."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert_refused(edit(server, data[:-2] + scan * 200 + data[-2:]), 400, "image_unreadable")
    assert edit(server, data).status_code == 200


def test_body_of_an_answered_request_is_not_waited_for(nano: Pipeline) -> None:
    with serving(nano, ServerSettings(header_timeout_s=0.2)) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
            head = "POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            connection.sendall(head.encode())
            received = b""
            while part := connection.recv(2**16):  # until the server closes
                received += part
            assert b"404" in received


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff", b'{"prompt": "\\ud800"}', b'{"prompt": NaN}', b"[" * 10_000, b'{"prompt": 1}'],
)
def test_body_that_is_no_request_is_refused(server: Running, content: bytes) -> None:
    http = server.http()
    for path in ("/v1/images/generations", "/v1/images/edits", "/v1/chat/completions", "/v1/jobs"):
        answer = http.post(path, content=content, headers={"content-type": "application/json"})
        assert_refused(answer, 400, answer.json()["error"]["code"])


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "multipart/form-data; boundary=x", ""])
def test_body_of_another_type_is_refused(server: Running, kind: str) -> None:
    for path in ("/v1/images/edits", "/v1/chat/completions"):
        answer = server.http().post(path, content=b"--x\r\nnonsense", headers={"content-type": kind})
        assert answer.status_code == 400, (path, answer.text)


def test_unknown_paths_and_methods_have_the_errors_form(server: Running) -> None:
    http = server.http()
    assert_refused(http.get("/v1/nothing"), 404, "not_found")
    assert_refused(http.get("/ui/../settings.py"), 404, "not_found")
    assert_refused(http.get("/v1/jobs"), 405, "method_not_allowed")


def test_every_answer_has_its_security_headers_and_the_metrics_no_prompts(server: Running) -> None:
    http = server.http()
    prompt = "a prompt that nobody else may see"
    http.post("/v1/images/generations", json={"prompt": prompt, **QUICK})
    answer = http.get("/metrics")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-request-id"].startswith("req_")
    assert prompt not in answer.text
    counted = 'omnigen2_requests_total{path="/v1/images/generations",status="200"}'
    for name in ("omnigen2_steps_total", "omnigen2_queued", counted):
        assert name in answer.text


@pytest.mark.parametrize("field", ["stop", "content", "images", "metadata"])
def test_long_list_of_wrong_values_is_refused_at_its_first_one(server: Running, field: str) -> None:
    """Each wrong value became an error of its own: 2 MB of them took seconds and a gigabyte."""
    wrong: Any = dict.fromkeys(map(str, range(1000)), 0) if field == "metadata" else [0] * 1000
    body = {"messages": [{"role": "user", "content": wrong if field == "content" else "x"}], "prompt": "x"}
    del body["prompt" if field != "images" else "messages"]
    with pytest.raises(ValidationError) as refused:
        (DrawBody if field == "images" else ChatBody).model_validate(body if field == "content" else {**body, field: wrong})
    assert len(refused.value.errors()) < 5


def test_origin_that_is_no_address_is_refused(server: Running) -> None:
    assert server.http().get("/v1/models", headers={"origin": "http://["}).status_code == 403
