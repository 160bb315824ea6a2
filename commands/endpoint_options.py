"""Endpoints on the command line: an address and a model's name; the key comes from the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from ..runtime.errors import RequestError
from .terminal import printable

if TYPE_CHECKING:
    from ..evaluation.endpoint import EndpointClient

KEY = "OPENAI_API_KEY"
"""The variable of the environment that holds the key."""


def endpoint_client(option: str, url: str | None, model: str | None) -> EndpointClient | None:
    """The client of `option URL option-model M`, which notes each wait; None without them.

    option: "--judge" for example. Raises RequestError for one without the other, and for what is no address.
    """
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise RequestError(f"{option} URL and {option}-model NAME belong together")
    from ..evaluation.endpoint import Endpoint, EndpointClient

    endpoint = Endpoint(url=url, model=model, key=os.environ.get(KEY) or None)
    return EndpointClient(endpoint, on_wait=lambda reason: typer.echo(printable(f"note: {reason}"), err=True))
