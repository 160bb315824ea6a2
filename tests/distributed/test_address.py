"""Addresses of clusters: those that can't be, and those where nothing listens."""

from __future__ import annotations

import socket

import pytest

from omnigen2_rt.distributed.address import check_address
from omnigen2_rt.distributed.cluster import connected
from omnigen2_rt.runtime.errors import OmniGen2Error, RequestError


@pytest.mark.parametrize("address", ["", "localhost", ":1", "a:", "a:x", "a:0", "a:65536", "ray://a:1", "http://a:1", "a:\u0661"])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match="is not HOST:PORT of a cluster, auto or local$"):
        check_address(address)


def test_address_where_nothing_listens_is_refused_at_once() -> None:
    """Ray retried for four minutes, and then ended the process."""
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OmniGen2Error, match=r"no cluster answers there \(Connection refused\)"):
            check_address(f"127.0.0.1:{taken.getsockname()[1]}")


def test_connection_to_such_an_address_is_refused_before_ray_tries() -> None:
    with pytest.raises(RequestError, match="HOST:PORT"), connected("nonsense", lambda note: None):
        pass


def test_address_that_answers_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")
    check_address("local")
