"""/raybox/capacity: what the caller may start now."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request
from starlette.responses import Response

from .asgi import json_response
from .auth import key_of
from .backend import Backend


def capacity_routes(backend: Backend) -> APIRouter:
    router = APIRouter()

    async def capacity(request: Request) -> Response:
        key = key_of(request.scope)
        return json_response(200, asdict(await backend.capacity(key.name, key.quota)))

    router.add_route("/raybox/capacity", capacity, methods=["GET"])
    return router
