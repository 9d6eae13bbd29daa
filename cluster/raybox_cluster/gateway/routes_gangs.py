"""/raybox/sandboxes: several sandboxes at once, all or none."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from . import wire
from .asgi import headers_of, json_response, read_body
from .auth import key_of
from .backend import Backend
from .creations import Creations
from .traffic import TrafficTokens


def gang_routes(backend: Backend, tokens: TrafficTokens, max_timeout_s: float, max_wait_s: float) -> APIRouter:
    router = APIRouter()
    creations = Creations(backend)

    async def create_many(request: Request) -> Response:
        key = key_of(request.scope)
        headers = headers_of(request.scope)
        body = await read_body(request.receive, headers, wire.MAX_CONTROL_BODY_BYTES)
        wanted, count, deadline_s = wire.parse_create_many(
            body, headers, key=key, max_timeout_s=max_timeout_s, max_wait_s=max_wait_s
        )
        infos = await creations.create_many(wanted, count, deadline_s, request.receive)
        for info in infos:
            tokens.remember(info)
        return json_response(201, {"sandboxes": [wire.created_body(info) for info in infos]})

    router.add_route("/raybox/sandboxes", create_many, methods=["POST"])
    return router
