"""The API's description: complete, and true of what the server answers to generated requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt import Request
from omnigen2_rt.serving.requests.bodies import DrawingBody
from tests.serving.running import Running

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_description_names_every_endpoint_and_its_body(server: Running) -> None:
    document = server.http().get("/openapi.json").json()
    assert {*document["paths"]} == {
        "/v1/images/generations", "/v1/images/edits", "/v1/chat/completions", "/v1/models", "/v1/models/{model_id}",
        "/v1/capabilities", "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events", "/health", "/ready", "/metrics",
    }  # fmt: skip
    for path, methods in document["paths"].items():
        assert ("post" in methods) == ("requestBody" in methods.get("post", {})), path
    body = document["components"]["schemas"]["DrawBody"]
    assert body["additionalProperties"] is False and body["properties"]["num_inference_steps"]["anyOf"][0]["maximum"] == 200


@pytest.mark.slow
def test_generated_requests_are_answered_as_described(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No status 500, and no answer outside the description. What is drawn is small: the answers' form is looked at."""
    request = DrawingBody.request

    def small(body: DrawingBody, prompt: str, images: Sequence[Any] = ()) -> Request:
        return replace(request(body, prompt, images), steps=1, width_px=64, height_px=64, text_guidance=1.0, cache=None)

    monkeypatch.setattr(DrawingBody, "request", small)
    words = ["run", f"{server.url}/openapi.json", "--checks", CHECKS, "--max-examples", "5", "--phases", "coverage,fuzzing"]
    options = ["--seed", "1", "--generation-database", "none", "--request-timeout", "60", "--no-color"]
    command = [sys.executable, "-m", "schemathesis.cli", *words, *options]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1200)
    assert finished.returncode == 0, finished.stdout[-5000:] + finished.stderr[-1000:]
