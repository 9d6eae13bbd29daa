"""Metrics and logs of sandboxes, on the control plane (contract 2.3)."""

from __future__ import annotations

import asyncio
import json
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from raybox_actors.errors import NotFound, RayboxError
from raybox_actors.fields import Json
from raybox_actors.values import LogEntry, ResourceUsage

from .asgi import json_response
from .auth import ApiKey, key_of
from .backend import Backend
from .errors import sandbox_is_gone
from .metrics import metric_body, number, query_of, sandbox_ids, span
from .resolver import is_sandbox_id
from .routes_sandboxes import path_sandbox_id
from .traffic import TrafficTokens
from .wire import timestamp

MAX_LOGS = 1000


def observing_routes(backend: Backend, tokens: TrafficTokens) -> APIRouter:
    """To be included before routes with a parameter in the place of a word: `/sandboxes/metrics` is no sandbox."""
    router = APIRouter()

    async def metrics(request: Request) -> Response:
        start_s, end_s = span(query_of(request.scope["query_string"]))
        samples = await backend.metrics(path_sandbox_id(request), start_s, end_s)
        return json_response(200, [metric_body(usage) for usage in samples])

    async def metrics_of_many(request: Request) -> Response:
        """The latest of each; sandboxes that are not there, or not the key's, are left out."""
        ids = sandbox_ids(query_of(request.scope["query_string"]))
        key = key_of(request.scope)
        latest = await asyncio.gather(*(_latest(backend, tokens, key, sandbox_id) for sandbox_id in ids))
        found = {sandbox_id: metric_body(usage) for sandbox_id, usage in zip(ids, latest, strict=True) if usage}
        return json_response(200, {"sandboxes": found})

    async def logs(request: Request) -> Response:
        query = query_of(request.scope["query_string"])
        entries = await backend.logs(path_sandbox_id(request))
        start_ms, limit = number(query, "start", 10**15), number(query, "limit", MAX_LOGS)
        entries = [entry for entry in entries if start_ms is None or entry.at_s * 1000 >= start_ms]
        entries = entries[: MAX_LOGS if limit is None else limit]
        bodies = [_log_body(entry) for entry in entries]
        if request.scope["path"].startswith("/v2/"):
            return json_response(200, {"logs": bodies})
        lines = [{"timestamp": body["timestamp"], "line": json.dumps(body)} for body in bodies]
        return json_response(200, {"logs": lines, "logEntries": bodies})

    router.add_route("/sandboxes/metrics", metrics_of_many, methods=["GET"])
    router.add_route("/sandboxes/{sandbox_id}/metrics", metrics, methods=["GET"])
    router.add_route("/sandboxes/{sandbox_id}/logs", logs, methods=["GET"])
    router.add_route("/v2/sandboxes/{sandbox_id}/logs", logs, methods=["GET"])
    return router


async def _latest(backend: Backend, tokens: TrafficTokens, key: ApiKey, sandbox_id: str) -> ResourceUsage | None:
    try:
        if not is_sandbox_id(sandbox_id):
            raise NotFound("sandbox", sandbox_id[:64])
        await tokens.require_reach(key, sandbox_id)
        samples = await backend.metrics(sandbox_id, time.time())
    except RayboxError as error:
        if sandbox_is_gone(error):
            return None
        raise
    return samples[-1] if samples else None


def _log_body(entry: LogEntry) -> Json:
    return {
        "timestamp": timestamp(entry.at_s),
        "message": entry.message,
        "level": entry.level,
        "fields": dict(entry.fields),
    }
