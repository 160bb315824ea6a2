"""The web application: the endpoints behind the guard, errors in OpenAI's form, and the API's description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from .. import __version__
from .answers import ErrorAnswer
from .endpoints import chat, images, jobs, models, operations
from .endpoints.streams import CLOSED, error_response
from .errors import ApiError, as_api_error
from .guard import Guard
from .requests.bodies import ChatBody, DrawBody, ReflectBody
from .service import Service

UI = Path(__file__).parent / "ui"
_GROUPS = (images, chat, jobs, models, operations)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "A value that isn't allowed or isn't supported; `param` names it.",
        401: "No valid API key.",
        403: "From another site's page.",
        404: "No such model or job.",
        408: "The body took too long to arrive.",
        413: "The body or a picture is too large.",
        429: "The queue is full; see Retry-After.",
        500: "The engine failed.",
        503: "Out of memory, or shutting down.",
    }.items()
}
_EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
_BODIES = {
    "/v1/images/generations": DrawBody,
    "/v1/images/edits": DrawBody,
    "/v1/chat/completions": ChatBody,
}


def create_app(service: Service) -> FastAPI:
    """The application of a service. Closing it closes the service's store and engines."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        expiry = asyncio.create_task(service.expire())
        try:
            yield
        finally:
            expiry.cancel()
            with suppress(asyncio.CancelledError):
                await expiry
            await asyncio.to_thread(service.close)

    app = FastAPI(title="omnigen2-rt", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, responses=_ERRORS)
    app.state.service = service
    for group in _GROUPS:
        app.include_router(group.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _other_error)
    app.add_api_route("/", _page("index.html"), include_in_schema=False)
    app.add_api_route("/docs", _page("docs.html"), include_in_schema=False)
    app.mount("/ui", StaticFiles(directory=UI), name="ui")
    app.add_middleware(Guard, keys=service.settings.keys, metrics=service.metrics, held=service.held)
    app.openapi_schema = _description(app)
    if service.settings.keys:
        app.openapi_schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema["security"] = [{"key": []}]
    return app


def _page(name: str) -> Any:
    async def page() -> Response:
        return FileResponse(UI / name, media_type="text/html")

    return page


async def _api_error(request: Request, error: Exception) -> Response:
    return error_response(as_api_error(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:80]
    messages = {404: f"there is no {path!r}; /docs lists what there is", 405: f"{path!r} doesn't take {request.method}"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_value")
    response = error_response(ApiError(code, messages.get(error.status_code, str(error.detail))))
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """The methods that the request's path has."""
    found: set[str] = set()
    for route in (*request.app.routes, *(route for group in _GROUPS for route in group.router.routes)):
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLOSED)


async def _other_error(request: Request, error: Exception) -> Response:
    return error_response(ApiError("engine_error", f"an internal error ({type(error).__name__})"))


def _description(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the bodies, which the endpoints read themselves."""
    document = app.openapi()
    bodies: list[type[BaseModel]] = [DrawBody, ReflectBody, ChatBody]
    _, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}")
    document["components"]["schemas"].update(definitions["$defs"])
    for path, body in _BODIES.items():
        document["paths"][path]["post"]["requestBody"] = _json_body({"$ref": f"#/components/schemas/{body.__name__}"})
    kinds = [{"$ref": f"#/components/schemas/{body.__name__}", "required": ["kind"]} for body in bodies]
    document["paths"]["/v1/jobs"]["post"]["requestBody"] = _json_body({"oneOf": kinds})
    content = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    content["multipart/form-data"] = {"schema": _form_schema(document["components"]["schemas"]["DrawBody"])}
    for path in (*_BODIES, "/v1/jobs/{job_id}/events"):
        for operation in document["paths"][path].values():
            operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": _EVENT}
    return document


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _form_schema(body: dict[str, Any]) -> dict[str, Any]:
    fields = {name: schema for name, schema in body["properties"].items() if name not in ("images", "kind")}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1, "maxItems": 5}
    return {"type": "object", "properties": {**fields, "image": files}, "required": ["image", "prompt"]}
