"""OpenAI's endpoint for chat: text and pictures in, words or pictures out, also streamed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ..answers import ChatAnswer
from ..errors import ApiError
from ..jobs import Job
from ..requests.bodies import ChatBody
from ..requests.pictures import MEDIA_TYPES, data_url
from ..service import Service
from ..watching import watching
from .reading import owner_of, read_body, service_of
from .streams import answer, event, event_stream

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions", response_model=ChatAnswer)
async def completions(request: Request) -> Response:
    """Answer a conversation, in words or with a picture."""
    body, service = await read_body(request, ChatBody), service_of(request)
    if body.stream_options is not None and not body.stream:
        raise ApiError("invalid_value", "stream_options needs stream", "stream_options")
    job = await service.accept(body, owner_of(request))
    if body.stream:
        return event_stream(service, job, lambda: _chunks(service, job), cancels=True, failure=_failure)
    return await answer(request, service, job, chat_answer)


async def _chunks(service: Service, job: Job) -> AsyncIterator[bytes]:
    assert isinstance(job.body, ChatBody)
    options = job.body.stream_options
    usage: dict[str, Any] = {"usage": None} if options and options.include_usage else {}
    yield event({**_chunk(job, {"role": "assistant", "content": ""}), **usage})
    async with watching(job) as events:
        async for each in events:
            if each["type"] == "text":
                yield event({**_chunk(job, {"content": each["text"]}), **usage})
    await service.outcome(job)  # raises its error
    made = chat_answer(job)
    choice = made["choices"][0]
    if choice["message"]["images"]:
        yield event({**_chunk(job, {"images": choice["message"]["images"]}), **usage})
    yield event({**_chunk(job, {}, choice["finish_reason"]), **usage})
    if usage:
        yield event({**_chunk(job, {}), "choices": [], "usage": made["usage"]})
    yield b"data: [DONE]\n\n"


def _failure(error: ApiError) -> bytes:
    return event(error.body())


def _chunk(job: Job, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {**_facts(job), "object": "chat.completion.chunk", "choices": [choice]}


def _facts(job: Job) -> dict[str, Any]:
    answer_id = f"chatcmpl-{job.id.removeprefix('job_')}"
    return {"id": answer_id, "created": int(job.created), "model": job.model, "seed": job.body.seed}


def chat_answer(job: Job) -> dict[str, Any]:
    """An answer, in OpenAI's form; its pictures stand in `message.images`, and then `content` is null."""
    assert job.outcome is not None
    facts, pictures = job.outcome.facts, job.outcome.pictures
    message = {
        "role": "assistant",
        "content": None if pictures else facts["text"],
        "refusal": None,
        "images": [{"type": "image_url", "image_url": {"url": data_url(data, MEDIA_TYPES["png"])}} for data in pictures],
    }
    choice = {"index": 0, "message": message, "finish_reason": facts["finish_reason"], "logprobs": None}
    created = {"created": int(job.finished or time.time())}
    return {**_facts(job), **created, "object": "chat.completion", "choices": [choice], "usage": facts["usage"]}
