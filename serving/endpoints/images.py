"""OpenAI's endpoints for pictures: generations and edits, also streamed with partial images."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ..answers import ImagesAnswer
from ..errors import ApiError
from ..jobs import Job
from ..requests.bodies import QUALITY_STEPS, DrawBody
from ..requests.pictures import base64_text
from ..service import Service
from ..watching import watching
from .reading import owner_of, read_body, read_edit, service_of
from .streams import answer, event, event_stream

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/images/generations", response_model=ImagesAnswer)
async def generations(request: Request) -> Response:
    """Draw pictures from a text, or from a text and pictures (`images`)."""
    return await _draw(request, await read_body(request, DrawBody), "image_generation")


@router.post("/v1/images/edits", response_model=ImagesAnswer)
async def edits(request: Request) -> Response:
    """Edit a picture, or combine up to five."""
    return await _draw(request, await read_edit(request), "image_edit")


async def _draw(request: Request, body: DrawBody, kind: str) -> Response:
    if body.partial_images and not body.stream:
        raise ApiError("invalid_value", "partial_images needs stream", "partial_images")
    if body.stream and body.n != 1:
        raise ApiError("unsupported_value", "a stream has one picture: n must be 1", "n")
    service = service_of(request)
    job = await service.accept(body, owner_of(request))
    if body.stream:
        return event_stream(service, job, lambda: _events(service, job, kind), cancels=True, failure=_failure)
    return await answer(request, service, job, images_answer)


async def _events(service: Service, job: Job, kind: str) -> AsyncIterator[bytes]:
    partial = 0
    async with watching(job) as events:
        async for each in events:
            if each["type"] == "preview":
                facts = {**_picture_facts(job), "output_format": "png", "b64_json": each["b64_json"]}
                name = f"{kind}.partial_image"
                yield event({"type": name, **facts, "partial_image_index": partial}, name)
                partial += 1
    await service.outcome(job)  # raises its error
    made = images_answer(job)
    facts = {**_picture_facts(job), **made["data"][0], "usage": made["usage"], "size": made["size"]}
    if "rewrite_refused" in made:
        facts["rewrite_refused"] = made["rewrite_refused"]
    yield event({"type": f"{kind}.completed", **facts}, f"{kind}.completed")


def _failure(error: ApiError) -> bytes:
    return event({"type": "error", **error.body()}, "error")


def _picture_facts(job: Job) -> dict[str, Any]:
    assert isinstance(job.body, DrawBody)
    return {
        "background": "opaque",
        "created_at": int(time.time()),
        "output_format": job.body.output_format,
        "quality": quality(job.body),
        "size": job.body.size,
        "seed": job.body.seed,
    }


def quality(body: DrawBody) -> str:
    """The quality by OpenAI's name: that of as many steps."""
    return "low" if body.steps <= QUALITY_STEPS["low"] else "medium" if body.steps <= QUALITY_STEPS["medium"] else "high"


def images_answer(job: Job) -> dict[str, Any]:
    """A drawing's pictures, in OpenAI's form."""
    assert job.outcome is not None and isinstance(job.body, DrawBody)
    facts = job.outcome.facts
    pictures = zip(job.outcome.pictures, facts["seeds"], strict=True)
    revised = {"revised_prompt": facts["revised_prompt"]} if "revised_prompt" in facts else {}
    refused = {"rewrite_refused": facts["rewrite_refused"]} if facts.get("rewrite_refused") else {}
    return {
        "created": int(job.finished or time.time()),
        "data": [{"b64_json": base64_text(picture), "seed": seed, **revised} for picture, seed in pictures],
        "background": "opaque",
        "output_format": job.body.output_format,
        "quality": quality(job.body),
        "size": facts["size"],
        "usage": facts["usage"],
        "seconds": facts["seconds"],
        "cut_tokens": facts["cut_tokens"],
        **refused,
    }
