"""Bodies of requests, read within limits of size and time, and checked."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from ..errors import ApiError
from ..requests.bodies import TASK, DrawBody, TaskBody
from ..requests.pictures import data_url
from ..requests.refusals import refusal
from ..service import Service
from ..settings import MAX_IMAGES, MAX_PICTURE_BYTES

QUICK_BYTES = 2**18
"""A larger body is read on another thread: the event loop would stand still."""
MAX_VALUES = 20_000
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
MAX_FIELDS = 100
MAX_FIELD_BYTES = 2**20
AnyBody = TypeVar("AnyBody", bound=BaseModel)


def service_of(request: Request) -> Service:
    """The server's service."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def owner_of(request: Request) -> str:
    """The digest of the caller's key."""
    return str(request.state.owner)


async def read_body(request: Request, model: type[AnyBody]) -> AnyBody:
    """A JSON body. Raises ApiError."""
    return await _checked(TypeAdapter(model), await _json_bytes(request))


async def read_task(request: Request) -> TaskBody:
    """The JSON body of a job, by its `kind`. Raises ApiError."""
    return await _checked(TASK, await _json_bytes(request))


async def read_edit(request: Request) -> DrawBody:
    """The body of an edit: a form with files `image` or `image[]`, or JSON with `images`. Raises ApiError."""
    if _media_type(request) != "multipart/form-data":
        return with_images(await read_body(request, DrawBody))
    fields: dict[str, Any] = {}
    images: list[str] = []
    limited = Request(request.scope, _limited(request))
    try:
        async with limited.form(max_files=MAX_IMAGES + 2, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
            for name, value in form.multi_items():
                if name in ("image", "image[]"):
                    images.append(await _file_url(value, f"image[{len(images)}]"))
                elif isinstance(value, UploadFile):
                    raise ApiError("unsupported_value", f"{name[:80]} is not supported here", name[:80])
                elif name.endswith("[]"):
                    fields.setdefault(name[:-2], []).append(value)
                elif name in fields:
                    raise ApiError("invalid_value", f"{name[:80]} is given twice", name[:80])
                else:
                    fields[name] = value
    except HTTPException as error:
        raise ApiError("invalid_value", f"the form can't be read: {error.detail}") from error
    if len(images) > MAX_IMAGES:
        raise ApiError("invalid_value", f"{len(images)} pictures were given; at most {MAX_IMAGES} are taken", "image")
    if "images" in fields or "kind" in fields:
        raise ApiError("unsupported_value", "pictures come as files named image", "images" if "images" in fields else "kind")
    return with_images(_checked_python(DrawBody, {**fields, "images": images}))


def with_images(body: DrawBody) -> DrawBody:
    """The body of an edit. Raises ApiError where it has no pictures."""
    if not body.images:
        raise ApiError("invalid_value", "image is required: one to five pictures", "image")
    return body


async def _file_url(value: UploadFile | str, param: str) -> str:
    if not isinstance(value, UploadFile):
        raise ApiError("image_unreadable", f"{param} is a text: send the picture as a file", param)
    if value.size is not None and value.size > MAX_PICTURE_BYTES:
        raise ApiError("too_large", f"{param} is larger than {MAX_PICTURE_BYTES // 2**20} MB", param)
    return data_url(await value.read())


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _json_bytes(request: Request) -> bytes:
    if _media_type(request) != "application/json":
        raise ApiError("invalid_value", "the body must be JSON, with Content-Type: application/json")
    return await Request(request.scope, _limited(request)).body()


async def _checked(adapter: TypeAdapter[AnyBody], body: bytes) -> AnyBody:
    if len(body) > QUICK_BYTES:
        return await asyncio.to_thread(_validated, adapter, body)
    return _validated(adapter, body)


def _validated(adapter: TypeAdapter[AnyBody], body: bytes) -> AnyBody:
    _check_values(body)
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise refusal(error) from None


def _check_values(body: bytes) -> None:
    """Raises ApiError for JSON of many values: reading them takes a hundred times their bytes."""
    if _marks(body) > MAX_VALUES and _marks(_STRING.sub(b"", body)) > MAX_VALUES:  # a text may have many of them too
        raise ApiError("too_large", f"the body has more than {MAX_VALUES} JSON values")


def _marks(text: bytes) -> int:
    return sum(text.count(mark) for mark in (b",", b"[", b"{"))


def _checked_python(model: type[AnyBody], fields: dict[str, Any]) -> AnyBody:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise refusal(error) from None


def _limited(request: Request) -> Callable[[], Awaitable[Message]]:
    """The request's `receive`, which raises ApiError for a body that is too large or too slow.

    A body that is too large is read and dropped, up to twice the limit: a client that is still sending hears no answer.
    """
    service = service_of(request)
    settings = service.settings
    deadline, read = time.monotonic() + settings.body_timeout_s, 0

    async def receive() -> Message:
        nonlocal read
        while True:
            try:
                message = await asyncio.wait_for(request.receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise ApiError("timeout", f"the body took longer than {settings.body_timeout_s:g} s to arrive") from None
            if message["type"] != "http.request":
                raise ClientDisconnect
            count = len(message.get("body", b""))
            read += count
            is_last = not message.get("more_body", False)
            if read <= settings.max_body_bytes:
                service.held.take(owner_of(request), count)
                request.state.held_bytes += count
                return message
            if is_last or read > 2 * settings.max_body_bytes:
                raise ApiError("too_large", f"the body is larger than {settings.max_body_bytes // 2**20} MB")

    return receive
