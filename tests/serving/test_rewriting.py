"""`rewrite` of the server: the revised prompt, refusals, cancelling, and a bundle that can't write."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from omnigen2_rt import Request
from omnigen2_rt.rewriting import plan
from omnigen2_rt.rewriting.rewriter import Written
from omnigen2_rt.runtime.images.png import read_parameters
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.errors import ApiError
from omnigen2_rt.serving.requests.bodies import DrawBody
from omnigen2_rt.serving.requests.checks import check_task
from tests.serving.running import Running, picture_of, wait_until

PROMPT = "a large red circle on a blue background"
LONG = f"{PROMPT}, in the middle of the picture, with sharp edges"
QUICK: dict[str, Any] = {"num_inference_steps": 2, "seed": 1, "rewrite": True}


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bundle's language model writes a longer prompt; nano's own can't."""

    def bundle_writer(pipeline: Pipeline, on_token: Any = None) -> Any:
        def write(question: str) -> Written:
            for word in LONG.split():
                on_token(word)
            return Written(text=LONG)

        return write

    monkeypatch.setattr(plan, "bundle_writer", bundle_writer)
    yield


def test_rewritten_prompt_is_drawn_and_answered_as_the_revised_one(
    server: Running, nano: Pipeline, writer: None, tmp_path: Any
) -> None:
    answer = server.client().images.generate(prompt=PROMPT, n=2, extra_body=QUICK)
    assert answer.data and [each.revised_prompt for each in answer.data] == [LONG, LONG]
    expected = nano.generate(Request(prompt=LONG, steps=2, seed=1)).images[0]
    assert picture_of(answer.data[0].b64_json).tobytes() == expected.tobytes()
    (tmp_path / "x.png").write_bytes(base64.b64decode(answer.data[0].b64_json or ""))
    parameters = read_parameters(tmp_path / "x.png")
    assert (parameters["prompt"], parameters["rewrite"]["prompt"]) == (LONG, PROMPT)


def test_refused_rewrite_draws_the_prompt_and_says_why(server: Running) -> None:
    answer = server.client().images.generate(prompt=PROMPT, extra_body=QUICK)
    assert answer.data and answer.data[0].revised_prompt == PROMPT
    assert "it lost 'red', 'blue'" in (answer.model_extra or {})["rewrite_refused"]


def test_request_without_rewrite_has_no_revised_prompt(server: Running) -> None:
    answer = server.client().images.generate(prompt=PROMPT, extra_body={**QUICK, "rewrite": False})
    assert answer.data and answer.data[0].revised_prompt is None and "rewrite_refused" not in (answer.model_extra or {})


def test_stream_ends_with_the_revised_prompt(server: Running, writer: None) -> None:
    stream = server.client().images.generate(prompt=PROMPT, stream=True, extra_body=QUICK)
    last = list(stream)[-1]
    assert (last.model_extra or {})["revised_prompt"] == LONG


def test_stream_ends_with_the_reason_of_a_refused_rewrite(server: Running) -> None:
    last = list(server.client().images.generate(prompt=PROMPT, stream=True, extra_body=QUICK))[-1]
    assert "it lost 'red', 'blue'" in (last.model_extra or {})["rewrite_refused"]


def test_job_is_cancelled_while_it_rewrites(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def bundle_writer(pipeline: Pipeline, on_token: Any = None) -> Any:
        def write(question: str) -> Written:
            while True:  # until the turn's pause raises Cancelled
                on_token("word")

        return write

    monkeypatch.setattr(plan, "bundle_writer", bundle_writer)
    http = server.http()
    job = http.post("/v1/jobs", json={"kind": "draw", "prompt": PROMPT, **QUICK}).json()["id"]
    wait_until(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "running")
    http.delete(f"/v1/jobs/{job}")
    wait_until(lambda: server.is_idle, 10)
    assert http.get(f"/v1/jobs/{job}").json().get("state", "cancelled") == "cancelled"


@pytest.mark.parametrize("value", ["yes please", 2])
def test_rewrite_that_is_no_truth_value_is_refused(server: Running, value: object) -> None:
    with pytest.raises(openai.BadRequestError, match="rewrite"):
        server.client().images.generate(prompt=PROMPT, extra_body={**QUICK, "rewrite": value})


def test_bundle_that_only_draws_refuses_to_rewrite() -> None:
    manifest = SimpleNamespace(chat=None, vae=SimpleNamespace(sample_px=128))
    pipeline: Any = SimpleNamespace(bundle=SimpleNamespace(manifest=manifest))
    with pytest.raises(ApiError, match="this bundle only draws") as refused:
        check_task(DrawBody(prompt=PROMPT, rewrite=True), pipeline)
    assert refused.value.param == "rewrite"
