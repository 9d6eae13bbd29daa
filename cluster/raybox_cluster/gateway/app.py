"""The gateway's ASGI application: one origin for both planes.

Who is asked comes before what is asked: requests that name a sandbox go to the data plane, whatever their path; the
rest is the control plane, where everything but /health needs an API key, and every path with a sandbox in it one that
reaches this sandbox.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from raybox_actors.errors import RayboxError

from .asgi import CORS_HEADERS, ClientGone, Message, Receive, Scope, Send, headers_of, is_preflight, preflight_response
from .auth import ApiKeys
from .backend import Backend
from .dataplane import ENVD_PORT, INTERPRETER_PORT, DataPlane
from .errors import control_response, framework_response, internal
from .resolver import Target, resolve, sandbox_in_path
from .routes_execute import Executions, StreamAborted
from .routes_sandboxes import sandbox_routes
from .routes_status import status_routes
from .routes_unavailable import unavailable_routes
from .traffic import TrafficTokens

logger = logging.getLogger(__name__)

#: How long a poll waits for events; also the pause between keepalive events of a silent execution.
KEEPALIVE_S = 5.0
MAX_TIMEOUT_S = 86_400.0


def create_app(
    backend: Backend, keys: ApiKeys, *, keepalive_s: float = KEEPALIVE_S, max_timeout_s: float = MAX_TIMEOUT_S
) -> FastAPI:
    """The application, with no state beyond caches and the tasks of running requests. `max_timeout_s` bounds what
    callers may ask a sandbox to live from now."""
    return Gateway(backend, keys, keepalive_s, max_timeout_s)


class Gateway(FastAPI):
    """A FastAPI application (the control plane) that looks at every request before its own machinery does."""

    def __init__(self, backend: Backend, keys: ApiKeys, keepalive_s: float, max_timeout_s: float) -> None:
        super().__init__(
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            exception_handlers={RayboxError: _raybox_error, HTTPException: _http_exception, Exception: _unexpected},
        )
        tokens = TrafficTokens(backend)
        self._keys = keys
        self._tokens = tokens
        self._dataplane = DataPlane(backend, tokens, Executions(backend, keepalive_s))
        self.include_router(unavailable_routes())
        self.include_router(sandbox_routes(backend, tokens, max_timeout_s))
        self.include_router(status_routes(backend))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # ports other than the two are not proxied yet
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return

        started = ended = False

        async def send_with_cors(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *CORS_HEADERS]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                ended = True
            await send(message)

        target = None
        try:
            headers = headers_of(scope)
            target = resolve(headers)
            if is_preflight(scope["method"], headers) and (target is None or target.port in _OUR_PORTS):
                await preflight_response()(scope, receive, send_with_cors)
            elif target is not None:
                await self._dataplane(target, headers, scope, receive, send_with_cors)
            else:
                if scope["path"] != "/health":
                    key = scope["raybox.key"] = self._keys.identify(headers.get(b"x-api-key"))
                    # Here and not in the routes, so that none can forget it.
                    if not key.admin and (sandbox_id := sandbox_in_path(scope["path"])) is not None:
                        await self._tokens.require_reach(key, sandbox_id)
                await super().__call__(scope, receive, send_with_cors)
        except ClientGone:
            return
        except StreamAborted:
            raise
        except RayboxError as error:
            if started:
                raise
            await control_response(error)(scope, receive, send_with_cors)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await self._failure(target)(scope, receive, send_with_cors)
            elif not ended:
                raise

    def _failure(self, target: Target | None) -> Response:
        return control_response(internal()) if target is None else self._dataplane.failure(target)


_OUR_PORTS = frozenset((INTERPRETER_PORT, ENVD_PORT))


async def _raybox_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RayboxError)
    return control_response(error)


async def _unexpected(_: Request, __: Exception) -> Response:
    """The framework raises the error again afterwards, and the gateway logs it."""
    return control_response(internal())


async def _http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return framework_response(error.status_code, error.detail, dict(error.headers or {}))
