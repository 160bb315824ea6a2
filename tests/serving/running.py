"""Servers for the tests: one in this process, on a port that the system chooses, and clients that talk to it."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import uvicorn
from PIL import Image

from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.app import create_app
from omnigen2_rt.serving.server import protocol
from omnigen2_rt.serving.service import Service
from omnigen2_rt.serving.settings import ServerSettings


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    url: str
    service: Service
    clients: ExitStack

    def client(self, key: str = "none") -> openai.OpenAI:
        """OpenAI's client, which raises for answers of another form than OpenAI's."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, _strict_response_validation=True)
        return self.clients.enter_context(client)

    def http(self, key: str | None = None) -> httpx2.Client:
        """A plain client."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return self.clients.enter_context(httpx2.Client(base_url=self.url, headers=headers, timeout=60))

    @property
    def is_idle(self) -> bool:
        """Whether no job is queued or under way, and the endings of all are kept: a job leaves the engine before it ends."""
        schedulers = [served.scheduler for served in self.service.bundles.values()]
        return not self.service._open and not any(scheduler.active or scheduler.queued for scheduler in schedulers)


@contextmanager
def serving(pipeline: Pipeline, settings: ServerSettings | None = None) -> Iterator[Running]:
    """A server of nano in this process."""
    with running(Service({"nano": pipeline}, settings or ServerSettings())) as server:
        yield server


@contextmanager
def running(service: Service) -> Iterator[Running]:
    """A server of the service, on a thread of its own."""
    http = protocol(service.settings.header_timeout_s)
    config = uvicorn.Config(create_app(service), port=0, http=http, ws="none", lifespan="on", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        (address,) = [socket.getsockname() for each in server.servers for socket in each.sockets]
        with ExitStack() as clients:
            yield Running(f"http://127.0.0.1:{address[1]}", service, clients)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Wait until the condition holds. Fails after the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def picture_of(text: str | None) -> Image.Image:
    """The picture of base64 text."""
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def png_bytes(image: Image.Image, **options: Any) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG", **options)
    return file.getvalue()


def url_of(image: Image.Image) -> str:
    """The picture as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}"
