"""Which components are open: lazily, and within a memory limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnigen2_rt.runtime.backends.fake import FakeBackend
from omnigen2_rt.runtime.backends.sessions import Sessions
from omnigen2_rt.runtime.bundle import Bundle


@pytest.fixture
def bundle(bundles: dict[str, Path]) -> Bundle:
    return Bundle.open(bundles["A"])


def run(sessions: Sessions, *components: str) -> None:
    for component in components:
        sessions.run(component, {})


def test_sessions_without_a_limit_open_each_component_once(bundle: Bundle) -> None:
    backend = FakeBackend()
    sessions = Sessions(bundle, backend)
    run(sessions, "vae_encoder", "transformer", "vae_encoder")
    assert backend.opened == ["vae_encoder", "transformer"]
    assert sessions.open_components == ("transformer", "vae_encoder")
    sessions.close()
    assert sessions.open_components == ()


def test_sessions_under_a_limit_close_the_least_recently_used(bundle: Bundle) -> None:
    sizes = {name: bundle.graph(name, "fp32").resident_bytes for name in ("vae_encoder", "vae_decoder", "transformer")}
    backend = FakeBackend()
    sessions = Sessions(bundle, backend, sum(sizes.values()) - 1)
    run(sessions, "vae_encoder", "vae_decoder", "vae_encoder", "transformer")
    assert sessions.open_components == ("vae_encoder", "transformer")
    run(sessions, "vae_encoder")
    assert [opening.component for opening in sessions.openings] == ["vae_encoder", "vae_decoder", "transformer"]
    assert sessions.openings[-1].closed == ("vae_decoder",)
    assert sessions.most_bytes == max(sizes["vae_encoder"] + sizes["vae_decoder"], sizes["vae_encoder"] + sizes["transformer"])


def test_sessions_under_a_tiny_limit_hold_one_component(bundle: Bundle) -> None:
    sessions = Sessions(bundle, FakeBackend(), 1)
    run(sessions, "vae_encoder", "transformer")
    assert sessions.open_components == ("transformer",)
