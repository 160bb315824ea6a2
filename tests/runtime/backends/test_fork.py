"""Backends in a process that was forked from one that used them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omnigen2_rt import load
from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.openvino import library
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError

FEEDS = {"prompt_embeds": np.ones((1, 5, 64), np.float32), **{name: np.ones((5, 12), np.float32) for name in ("cos", "sin")}}

FORKED = """
import os, sys
import omnigen2_rt as og
from omnigen2_rt.runtime.errors import BackendError
request = og.Request(prompt="a red cube", height_px=32, width_px=32, steps=1)
bundle, backend, is_used = sys.argv[1], sys.argv[2], sys.argv[3] == "used"
pipeline = og.load(bundle, backend=backend, precision="fp32", threads=2)
before = pipeline.generate(request).latents.mean() if is_used else None
child = os.fork()
if child == 0:
    for draw in (pipeline.generate, lambda request: og.load(bundle, backend=backend, precision="fp32").generate(request)):
        try:
            print("drew", before in (None, draw(request).latents.mean()), flush=True)
        except BackendError as error:
            print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def printed_by_child(*words: object) -> list[str]:
    finished = subprocess.run([sys.executable, "-c", FORKED, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_openvino_in_a_forked_process_says_so(bundles: dict[str, Path]) -> None:
    """It waited for ever for threads that the fork didn't copy."""
    used, loaded = printed_by_child(bundles["A"], "openvino", "used")
    assert used == library.FORKED
    assert loaded.startswith("backend openvino does not work here: OpenVINO ran in the process that this one was forked from")


def test_openvino_that_was_not_used_before_a_fork_draws(bundles: dict[str, Path]) -> None:
    assert printed_by_child(bundles["A"], "openvino", "unused") == ["drew True"] * 2


def test_onnx_runtime_in_a_forked_process_draws(bundles: dict[str, Path]) -> None:
    assert printed_by_child(bundles["A"], "ort-cpu", "used") == ["drew True"] * 2


def test_openvino_session_and_backend_of_another_process_are_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend(bundle, "openvino", "fp32", threads=1)
    session = backend.open("context_refiner")
    monkeypatch.setattr(library, "_threaded", {os.getpid() + 1})
    for action in (lambda: session.run(FEEDS), lambda: backend.open("context_refiner")):
        with pytest.raises(BackendError, match="OpenVINO ran in the process that this one was forked from"):
            action()
    assert "spawn" in str(library.problem())
    with load(bundle.path, precision="fp32") as pipeline:
        assert pipeline.backend.name == "ort-cpu", "auto takes what works"
