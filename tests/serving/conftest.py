"""One nano, and a server of it, for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from omnigen2_rt import load
from omnigen2_rt.runtime.pipeline import Pipeline
from tests.serving.running import Running, serving


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def server(nano: Pipeline) -> Iterator[Running]:
    with serving(nano) as running:
        yield running
