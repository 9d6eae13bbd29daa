"""Routes of the protocol that this version does not have: 501 with a name, so that a caller need not guess."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from .errors import NotAvailable

METHODS = ["DELETE", "GET", "PATCH", "POST", "PUT"]

#: Path of the control plane (contract 2.2) -> what is missing.
UNAVAILABLE: dict[str, str] = {
    "/sandboxes/{sandbox_id}/pause": "pausing",
    "/sandboxes/{sandbox_id}/resume": "pausing",
    "/sandboxes/{sandbox_id}/fork": "forking",
    "/sandboxes/{sandbox_id}/snapshots": "snapshots",
    "/snapshots": "snapshots",
    "/templates": "templates",
    "/templates/{rest:path}": "templates",
    "/v2/templates": "templates",
    "/v2/templates/{rest:path}": "templates",
    "/v3/templates": "templates",
    "/v3/templates/{rest:path}": "templates",
    "/volumes": "volumes",
    "/volumes/{rest:path}": "volumes",
    "/volumecontent/{rest:path}": "volumes",
    "/secrets": "secrets",
    "/secrets/{rest:path}": "secrets",
}


def unavailable_routes() -> APIRouter:
    """To be included before routes with a parameter in the place of a word: `/sandboxes/metrics` is no sandbox."""
    router = APIRouter()
    for path, what in UNAVAILABLE.items():
        router.add_route(path, _refusal(what), methods=METHODS)
    return router


def _refusal(what: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(_: Request) -> Response:
        raise NotAvailable(f"not available in this version: {what}")

    return refuse
