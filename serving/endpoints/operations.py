"""Endpoints for those who run the server: whether it is alive, whether it takes requests, and its figures."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ..answers import Status
from .reading import service_of

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health() -> Status:
    """200 while the server runs."""
    return Status(status="ok")


@router.get("/ready")
async def ready(request: Request) -> Status:
    """200 while it takes requests, 503 once it is shutting down."""
    service_of(request).check_running()
    return Status(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")
