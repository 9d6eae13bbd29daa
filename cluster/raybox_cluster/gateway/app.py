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

from raybox_actors.errors import NotFound, RayboxError

from .asgi import (
    CORS_HEADERS,
    PROXIED,
    ClientGone,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    StreamAborted,
    headers_of,
    is_preflight,
    preflight_response,
)
from .auth import KEY_IN_SCOPE, OPEN_RUN_CODE, ApiKey, ApiKeys, bearer_token
from .backend import Backend
from .dataplane import INTERPRETER_PORT, DataPlane
from .errors import control_response, envd_response, framework_response, internal
from .ports_websocket import refuse
from .resolver import ENVD_PORT, Target, is_for_control_plane, resolve, sandbox_in_path
from .routes_batch import batch_routes
from .routes_capacity import capacity_routes
from .routes_envd import files_query
from .routes_execute import Executions
from .routes_gangs import gang_routes
from .routes_leases import lease_routes
from .routes_observing import observing_routes
from .routes_run_code import RUN_CODE_PATH, run_code_routes
from .routes_sandboxes import sandbox_routes
from .routes_status import status_routes
from .routes_unavailable import unavailable_routes
from .signatures import AccessDenied, Operation
from .signed_urls import Owners
from .traffic import TrafficTokens
from .wire import MAX_WAIT_S

logger = logging.getLogger(__name__)

#: How long a poll waits for events; also the pause between keepalive events of a silent execution.
KEEPALIVE_S = 5.0
MAX_TIMEOUT_S = 86_400.0


def create_app(
    backend: Backend,
    keys: ApiKeys,
    *,
    keepalive_s: float = KEEPALIVE_S,
    max_timeout_s: float = MAX_TIMEOUT_S,
    max_wait_s: float = MAX_WAIT_S,
    open_run_code: bool = False,
) -> FastAPI:
    """The application, with no state beyond caches and the tasks of running requests. `max_timeout_s` bounds what
    callers may ask a sandbox to live from now, `max_wait_s` how long they may wait for one. `open_run_code`: POST
    /run_code needs no API key."""
    return Gateway(backend, keys, keepalive_s, max_timeout_s, max_wait_s, open_run_code)


class Gateway(FastAPI):
    """A FastAPI application (the control plane) that looks at every request before its own machinery does."""

    def __init__(
        self,
        backend: Backend,
        keys: ApiKeys,
        keepalive_s: float,
        max_timeout_s: float,
        max_wait_s: float,
        open_run_code: bool,
    ) -> None:
        super().__init__(
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            exception_handlers={RayboxError: _raybox_error, HTTPException: _http_exception, Exception: _unexpected},
        )
        tokens = TrafficTokens(backend)
        self._keys = keys
        self._open_run_code = open_run_code
        self._tokens = tokens
        self._owners = Owners(backend, tokens)
        self._dataplane = DataPlane(backend, tokens, Executions(backend, keepalive_s))
        self.include_router(unavailable_routes())
        self.include_router(observing_routes(backend, tokens))
        self.include_router(sandbox_routes(backend, tokens, max_timeout_s, max_wait_s))
        self.include_router(capacity_routes(backend))
        self.include_router(batch_routes(backend, keepalive_s, max_timeout_s, max_wait_s))
        self.include_router(run_code_routes(backend))
        self.include_router(gang_routes(backend, tokens, max_timeout_s, max_wait_s))
        self.include_router(lease_routes(backend, tokens, max_timeout_s, max_wait_s))
        self.include_router(status_routes(backend))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return

        started = ended = False

        async def send_with_cors(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                if PROXIED not in scope:  # a server inside says for itself who may read its answers
                    message["headers"] = [*message.get("headers", ()), *CORS_HEADERS]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                ended = True
            await send(message)

        target = None
        try:
            headers = headers_of(scope)
            target = resolve(headers)
            if is_for_control_plane(target, headers, scope["path"]):
                target = None
            if target is None and scope["path"] == "/files" and scope["method"] != "OPTIONS":
                target = await self._owner_of_file(scope)
            if is_preflight(scope["method"], headers) and (target is None or target.port in _OUR_PORTS):
                await preflight_response()(scope, receive, send_with_cors)
            elif target is not None:
                await self._dataplane(target, headers, scope, receive, send_with_cors)
            else:
                if scope["path"] != "/health":
                    key = scope[KEY_IN_SCOPE] = self._identify(scope["path"], headers)
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
            response = envd_response(error) if isinstance(error, AccessDenied) else control_response(error)
            await response(scope, receive, send_with_cors)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await self._failure(target)(scope, receive, send_with_cors)
            elif not ended:
                raise

    def _identify(self, path: str, headers: Headers) -> ApiKey:
        """Raises Unauthenticated. Who asks for /run_code knows services where keys are bearer tokens, or none."""
        presented = headers.get(b"x-api-key")
        if path == RUN_CODE_PATH and presented is None:
            presented = bearer_token(headers.get(b"authorization"))
            if presented is None and self._open_run_code:
                return OPEN_RUN_CODE
        return self._keys.identify(presented)

    async def _owner_of_file(self, scope: Scope) -> Target:
        """A signed URL names no sandbox, but only one has the token that it was signed with. Raises AccessDenied."""
        operation: Operation = "write" if scope["method"] == "POST" else "read"
        return Target(await self._owners.find(operation, files_query(scope["query_string"])), ENVD_PORT)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = headers_of(scope)
            target = resolve(headers)
            if target is None:
                raise NotFound("path", scope["path"][:256])
            await self._dataplane.websocket(target, headers, scope, receive, send)
        except RayboxError as error:
            await refuse(control_response(error), scope, send)

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
