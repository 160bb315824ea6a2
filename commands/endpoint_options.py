"""Endpoints on the command line: an address and a model's name; the key comes from the environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from ..runtime.errors import RequestError
from .terminal import note

if TYPE_CHECKING:
    from ..evaluation.endpoint import EndpointClient

KEY = "OPENAI_API_KEY"
"""The variable of the environment that holds a key, unless an option names another one."""

JudgeURL = Annotated[str | None, typer.Option("--judge", metavar="URL", help="The judge's endpoint: https://host/v1.")]
JudgeModel = Annotated[str | None, typer.Option(help="The judge's model there.")]
JudgeKey = Annotated[
    str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the key of the judge's endpoint.")
]
Rubric = Annotated[Path | None, typer.Option(help="What to tell the judge instead, TOML or JSON.")]


def endpoint_client(option: str, url: str | None, model: str | None, key_variable: str = KEY) -> EndpointClient | None:
    """The client of `option URL option-model M`, which notes each wait; None without them.

    option: "--judge" for example. Raises RequestError for one without the other, and for what is no address.
    """
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise RequestError(f"{option} URL and {option}-model NAME belong together")
    return noting_client(option, url, model, key_variable)


def noting_client(option: str, url: str, model: str, key_variable: str, **settings: Any) -> EndpointClient:
    """A client that notes each wait. settings: further fields of `Endpoint`. Raises RequestError for what is no address."""
    from ..evaluation.endpoint import Endpoint, EndpointClient

    endpoint = Endpoint(url=url, model=model, key=os.environ.get(key_variable) or None, **settings)
    return EndpointClient(endpoint, on_wait=wait_notes(option, url))


def wait_notes(option: str, url: str) -> Callable[[str], None]:
    """The function that notes waits for an endpoint: each reason and length once, though several threads may wait.

    option: that names the endpoint; a note begins with it and the host.
    """
    seen, lock = set[str](), threading.Lock()

    def on_wait(reason: str) -> None:
        with lock:
            is_new = reason not in seen
            seen.add(reason)
        if is_new:
            note(f"{option} {endpoint_host(url)}: {reason}")

    return on_wait


def endpoint_host(url: str) -> str:
    """The host and the port of an address."""
    return urlsplit(url).netloc
