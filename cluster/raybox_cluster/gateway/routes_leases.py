"""/raybox/leases of the control plane: the same key gives the same sandbox, for as long as somebody wants it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from .asgi import headers_of, json_response, read_body
from .auth import key_of
from .backend import Backend
from .lease_messages import check_lease_key, lease_body, leased_body, no_such_lease, parse_heartbeat, parse_lease
from .metrics import query_of
from .traffic import TrafficTokens
from .wire import MAX_CONTROL_BODY_BYTES


def lease_routes(backend: Backend, tokens: TrafficTokens, max_timeout_s: float, max_wait_s: float) -> APIRouter:
    router = APIRouter()

    async def body_of(request: Request) -> bytes:
        return await read_body(request.receive, headers_of(request.scope), MAX_CONTROL_BODY_BYTES)

    async def lease(request: Request) -> Response:
        wanted, recreate = parse_lease(
            _key_in_path(request),
            await body_of(request),
            headers_of(request.scope),
            key=key_of(request.scope),
            max_timeout_s=max_timeout_s,
            max_wait_s=max_wait_s,
        )
        info, created = await backend.lease(wanted, recreate=recreate)
        tokens.remember(info)
        return json_response(201 if created else 200, leased_body(info, created=created))

    async def release(request: Request) -> Response:
        key = _key_in_path(request)
        sandbox_id = query_of(request.scope["query_string"]).get("sandbox_id")
        if not await backend.release_lease(key_of(request.scope).name, key, sandbox_id):
            raise no_such_lease(key)
        return Response(status_code=204)

    async def heartbeat_of_lease(request: Request) -> Response:
        key = _key_in_path(request)
        if not await backend.heartbeat_lease(key_of(request.scope).name, key):
            raise no_such_lease(key)
        return Response(status_code=204)

    async def heartbeat(request: Request) -> Response:
        owner = parse_heartbeat(await body_of(request), key_of(request.scope))
        return json_response(200, {"leases": await backend.heartbeat(owner)})

    async def listing(request: Request) -> Response:
        key = key_of(request.scope)
        mine = [info for info in await backend.sandboxes() if info.lease is not None and key.may_reach(info.owner)]
        return json_response(200, [lease_body(info) for info in mine])

    router.add_route("/raybox/leases", listing, methods=["GET"])
    router.add_route("/raybox/leases/heartbeat", heartbeat, methods=["POST"])
    router.add_route("/raybox/leases/{key}", lease, methods=["PUT"])
    router.add_route("/raybox/leases/{key}", release, methods=["DELETE"])
    router.add_route("/raybox/leases/{key}/heartbeat", heartbeat_of_lease, methods=["POST"])
    return router


def _key_in_path(request: Request) -> str:
    return check_lease_key(request.path_params["key"])
