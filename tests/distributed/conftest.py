"""The cluster of this machine that all tests with Ray share: starting one takes as long as most of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.distributed.clusters import cluster_of


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without processors, to which this process is connected. Tests add the nodes that they need."""
    with cluster_of({"num_cpus": 0}) as cluster:
        yield cluster
