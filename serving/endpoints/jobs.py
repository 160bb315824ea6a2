"""Jobs: work that outlives its request, with its progress as events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from ..answers import JobAnswer
from ..errors import ApiError
from ..jobs import Job
from ..requests.bodies import ChatBody, DrawBody
from ..requests.pictures import base64_text
from ..service import Service
from ..watching import watching
from .chat import chat_answer
from .images import images_answer
from .reading import owner_of, read_task, service_of
from .streams import event, event_stream

router = APIRouter(tags=["jobs"])


@router.post("/v1/jobs", status_code=202, response_model=JobAnswer)
async def create(request: Request) -> Response:
    """Queue a drawing, a chat or a reflection."""
    body, service = await read_task(request), service_of(request)
    if isinstance(body, DrawBody | ChatBody) and body.stream:
        raise ApiError("unsupported_value", "a job is followed by its events: leave stream out", "stream")
    job = await service.accept(body, owner_of(request), is_kept=True, body_bytes=request.state.held_bytes)
    request.state.held_bytes = 0  # the job's now
    return JSONResponse(job_answer(service, job), 202, {"location": f"/v1/jobs/{job.id}"})


@router.get("/v1/jobs/{job_id}", response_model=JobAnswer)
async def show(request: Request, job_id: str) -> Response:
    """A job's state, and its result once it is done."""
    service = service_of(request)
    return JSONResponse(job_answer(service, await service.find(job_id, owner_of(request))))


@router.get("/v1/jobs/{job_id}/events")
async def events(request: Request, job_id: str) -> Response:
    """A job's events (SSE): queued, running, step, preview, text, round, and done, failed, cancelled or suspended.

    Suspended: the server is shutting down; the job is queued again when it starts again.
    """
    service = service_of(request)
    job = await service.find(job_id, owner_of(request))
    return event_stream(service, job, lambda: _events(service, job), cancels=False, failure=_failure)


@router.delete("/v1/jobs/{job_id}", response_model=JobAnswer)
async def delete(request: Request, job_id: str) -> Response:
    """Cancel a job; remove one that has ended."""
    service = service_of(request)
    job = await service.find(job_id, owner_of(request))
    if job.is_final:
        await service.forget(job)
    else:
        await service.cancel_kept(job)
    return JSONResponse(job_answer(service, job))


async def _events(service: Service, job: Job) -> AsyncIterator[bytes]:
    async with watching(job) as events:
        async for each in events:
            if each["type"] == "done":
                each = {**each, "job": job_answer(service, job)}
            yield event(each, each["type"])


def _failure(error: ApiError) -> bytes:
    return event({"type": "failed", **error.body()}, "failed")


def job_answer(service: Service, job: Job) -> dict[str, Any]:
    """A job as its owner sees it."""
    expires = int(job.finished + service.settings.keep_s) if job.finished is not None else None
    return {
        "id": job.id,
        "object": "job",
        "kind": job.body.kind,
        "model": job.model,
        "state": job.state,
        "priority": job.body.priority,
        "position": job.position or None,
        "progress": {} if job.is_final else job.progress,
        "created_at": int(job.created),
        "finished_at": None if job.finished is None else int(job.finished),
        "expires_at": expires,
        "seed": job.body.seed,
        "error": job.error.facts() if job.error else None,
        "result": _result(job),
    }


def _result(job: Job) -> dict[str, Any] | None:
    """A drawing's or chat's answer as its endpoint gives it; a reflection's rounds, each with its picture."""
    if job.outcome is None:
        return None
    if isinstance(job.body, DrawBody):
        return images_answer(job)
    if isinstance(job.body, ChatBody):
        return chat_answer(job)
    facts = job.outcome.facts
    judged = zip(facts["rounds"], job.outcome.pictures, strict=True)
    rounds = [{**each, "b64_json": base64_text(picture)} for each, picture in judged]
    return {"rounds": rounds, "best": facts["best"], "seed": job.body.seed}
