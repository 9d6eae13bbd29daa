"""/sandboxes and /v2/sandboxes of the control plane: create, connect, list, info, kill and deadlines."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from raybox_actors.errors import NotFound

from . import wire
from .asgi import headers_of, json_response, read_body
from .auth import key_of
from .backend import Backend
from .creations import Creations
from .resolver import MAX_SANDBOX_ID_CHARS, is_sandbox_id
from .traffic import TrafficTokens

NO_CONTENT = 204


def sandbox_routes(backend: Backend, tokens: TrafficTokens, max_timeout_s: float, max_wait_s: float) -> APIRouter:
    """Handlers take the bare request: the contract's bodies are read by `wire`, which answers in its words."""
    router = APIRouter()
    creations = Creations(backend)

    async def body_of(request: Request) -> bytes:
        return await read_body(request.receive, headers_of(request.scope), wire.MAX_CONTROL_BODY_BYTES)

    async def create(request: Request) -> Response:
        wanted = wire.parse_create(
            await body_of(request),
            headers_of(request.scope),
            key=key_of(request.scope),
            version=_version(request),
            max_timeout_s=max_timeout_s,
            max_wait_s=max_wait_s,
        )
        info = await creations.create(wanted, request.receive)
        tokens.remember(info)
        return json_response(201, wire.created_body(info))

    async def connect(request: Request) -> Response:
        sandbox_id = path_sandbox_id(request)
        timeout_s = wire.parse_connect(await body_of(request), version=_version(request), max_timeout_s=max_timeout_s)
        info, resumed = await backend.connect(sandbox_id, timeout_s)
        tokens.remember(info)
        return json_response(201 if resumed else 200, wire.created_body(info))

    async def listing(request: Request) -> Response:
        query = wire.parse_list(request.scope["query_string"], version=_version(request))
        key = key_of(request.scope)
        mine = [info for info in await backend.sandboxes() if key.may_reach(info.owner)]
        page = wire.select(mine, query)
        headers = {"x-total-running": str(page.total_running)}
        if page.next_token is not None:
            headers["x-next-token"] = page.next_token
        return json_response(200, [wire.listed_body(info) for info in page.sandboxes], headers)

    async def info(request: Request) -> Response:
        return json_response(200, wire.detail_body(await backend.info(path_sandbox_id(request))))

    async def kill(request: Request) -> Response:
        await backend.kill(path_sandbox_id(request))
        return Response(status_code=NO_CONTENT)

    async def set_timeout(request: Request) -> Response:
        sandbox_id = path_sandbox_id(request)
        timeout_s = wire.parse_timeout(await body_of(request), max_timeout_s=max_timeout_s)
        await backend.set_timeout(sandbox_id, timeout_s)
        return Response(status_code=NO_CONTENT)

    async def refresh(request: Request) -> Response:
        sandbox_id = path_sandbox_id(request)
        await backend.connect(sandbox_id, wire.parse_refresh(await body_of(request)))
        return Response(status_code=NO_CONTENT)

    async def update_network(request: Request) -> Response:
        sandbox_id = path_sandbox_id(request)
        network, internet = wire.parse_network_update(await body_of(request))
        await backend.update_network(sandbox_id, network, internet)
        return Response(status_code=NO_CONTENT)

    for prefix in ("", "/v2"):
        router.add_route(f"{prefix}/sandboxes", create, methods=["POST"])
        router.add_route(f"{prefix}/sandboxes", listing, methods=["GET"])
        router.add_route(f"{prefix}/sandboxes/{{sandbox_id}}/connect", connect, methods=["POST"])
    router.add_route("/sandboxes/{sandbox_id}", info, methods=["GET"])
    router.add_route("/sandboxes/{sandbox_id}", kill, methods=["DELETE"])
    router.add_route("/sandboxes/{sandbox_id}/timeout", set_timeout, methods=["POST"])
    router.add_route("/sandboxes/{sandbox_id}/network", update_network, methods=["PUT"])
    router.add_route("/sandboxes/{sandbox_id}/refreshes", refresh, methods=["POST"])
    return router


def _version(request: Request) -> int:
    return 2 if request.scope["path"].startswith("/v2/") else 1


def path_sandbox_id(request: Request) -> str:
    """Raises NotFound for what no sandbox can be called; clients take 404 for an answer, 400 for a failure."""
    sandbox_id: str = request.path_params["sandbox_id"]
    if not is_sandbox_id(sandbox_id):
        raise NotFound("sandbox", sandbox_id[:MAX_SANDBOX_ID_CHARS])
    return sandbox_id
