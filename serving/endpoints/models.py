"""The bundles that are served, and what they and the server can do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ... import __version__
from ...runtime.step_caches import CACHES
from ..answers import Capabilities, ModelAnswer, ModelsAnswer
from ..requests.bodies import ChatBody, DrawBody, ReflectBody
from ..service import Served
from ..settings import MAX_DELIVERED_PIXELS, MAX_IMAGES, MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS, MAX_SIDE_PX, MAX_STEPS
from .reading import service_of

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def models(request: Request) -> ModelsAnswer:
    """The bundles by name."""
    return ModelsAnswer(data=[_model(served) for served in service_of(request).bundles.values()])


@router.get("/v1/models/{model_id:path}")
async def model(request: Request, model_id: str) -> ModelAnswer:
    """A bundle."""
    return _model(service_of(request).bundle(model_id))


@router.get("/v1/capabilities")
async def capabilities(request: Request) -> Capabilities:
    """The abilities of each bundle, the server's limits, and each kind's parameters."""
    service = service_of(request)
    limits = {
        "queue": service.settings.max_queue,
        "open_jobs": service.settings.max_open_jobs,
        "images": MAX_IMAGES,
        "picture_bytes": MAX_PICTURE_BYTES,
        "picture_pixels": MAX_PICTURE_PIXELS,
        "side_px": MAX_SIDE_PX,
        "delivered_pixels": MAX_DELIVERED_PIXELS,
        "steps": MAX_STEPS,
        "body_bytes": service.settings.max_body_bytes,
        "image_hosts": sorted(service.settings.image_hosts),
    }
    return Capabilities(
        version=__version__,
        is_durable=service.settings.state is not None,
        models={name: _abilities(served) for name, served in service.bundles.items()},
        limits=limits,
        parameters={body.__name__.removesuffix("Body").lower(): _parameters(body) for body in (DrawBody, ReflectBody, ChatBody)},
    )


def _model(served: Served) -> ModelAnswer:
    return ModelAnswer(id=served.name, created=served.created, owned_by="omnigen2-rt")


def _abilities(served: Served) -> dict[str, Any]:
    manifest, backend = served.pipeline.bundle.manifest, served.pipeline.backend
    can_chat, can_see = manifest.chat is not None, manifest.vision is not None
    return {
        "sample_px": manifest.vae.sample_px,
        "images": min(MAX_IMAGES, manifest.transformer.max_references),
        "chat": can_chat,
        "vision": can_see,
        "draws_in_chat": manifest.chat is not None and manifest.chat.draw_token_id is not None,
        "reflection": can_chat and can_see,
        "previews": bool(manifest.vae.latent_rgb),
        "caches": list(CACHES),
        "backend": backend.name,
        "precision": backend.precision,
        **served.scheduler.facts(),
    }


def _parameters(body: type[DrawBody] | type[ReflectBody] | type[ChatBody]) -> dict[str, Any]:
    schema: dict[str, Any] = body.model_json_schema()["properties"]
    return schema
