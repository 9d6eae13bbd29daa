"""/health for load balancers, /raybox/status for the command line."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request
from starlette.responses import Response

from .asgi import json_response
from .auth import key_of
from .backend import Backend
from .errors import Forbidden


def status_routes(backend: Backend) -> APIRouter:
    router = APIRouter()

    async def health(_: Request) -> Response:
        """Whether this gateway answers; it says nothing of the pool, so that a full pool does not lose its gateways."""
        return json_response(200, "OK")

    async def status(request: Request) -> Response:
        if not key_of(request.scope).admin:
            raise Forbidden("the state of the pool is for admin keys")
        return json_response(200, asdict(await backend.status()))

    router.add_route("/health", health, methods=["GET"])
    router.add_route("/raybox/status", status, methods=["GET"])
    return router
