"""The data plane: requests for one port of one sandbox. Plain ASGI, no framework."""

from __future__ import annotations

from starlette.responses import Response

from raybox_actors.errors import BadRequest, NotFound, RayboxError

from .asgi import Headers, Receive, Scope, Send, StreamAborted, WatchedSend, text_response
from .backend import Backend
from .errors import gateway_response, internal, interpreter_response
from .ports import Ports
from .ports_websocket import refuse
from .resolver import ENVD_PORT, Target, is_sandbox_id
from .routes_contexts import contexts
from .routes_envd import Envd, require_running
from .routes_execute import Executions
from .traffic import TrafficTokens
from .wire import INTERPRETER_HEALTH

INTERPRETER_PORT = 49999


class DataPlane:
    def __init__(self, backend: Backend, tokens: TrafficTokens, executions: Executions) -> None:
        self._backend = backend
        self._tokens = tokens
        self._executions = executions
        self._envd = Envd(backend, tokens)
        self._ports = Ports(backend)

    async def __call__(self, target: Target, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers every RayboxError, unless the answer has begun: then it raises StreamAborted. Raises ClientGone, and
        what nobody expected."""
        shape = interpreter_response if target.port == INTERPRETER_PORT else gateway_response
        watched = WatchedSend(send)
        try:
            await self._check(target, headers)
            if target.port == ENVD_PORT:
                await self._envd(target.sandbox_id, headers, scope, receive, watched)
            elif target.port != INTERPRETER_PORT:
                await self._ports.http(target, headers, scope, receive, watched)
            elif scope["path"] == "/execute" and scope["method"] == "POST":
                await self._executions.execute(target.sandbox_id, headers, receive, send)
            elif scope["path"].startswith("/executions/"):
                await self._executions.existing(target.sandbox_id, scope, receive, watched)
            else:
                response = await self._interpreter(target.sandbox_id, scope["method"], scope["path"], headers, receive)
                await response(scope, receive, watched)
            return
        except RayboxError as error:
            if watched.started:
                raise StreamAborted(str(error)) from error
            response = shape(target.sandbox_id, error)
        await response(scope, receive, send)

    async def websocket(self, target: Target, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket of a server inside. Answers every RayboxError by refusing it."""
        try:
            await self._check(target, headers)
            if target.port in (ENVD_PORT, INTERPRETER_PORT):
                await require_running(self._backend, target.sandbox_id)
                raise BadRequest("there is no WebSocket at this port")
            await self._ports.websocket(target, headers, scope, receive, send)
        except RayboxError as error:
            await refuse(gateway_response(target.sandbox_id, error), scope, send)

    async def _check(self, target: Target, headers: Headers) -> None:
        if not is_sandbox_id(target.sandbox_id):
            raise NotFound("sandbox", target.sandbox_id)
        if target.port != ENVD_PORT:
            await self._tokens.check(target.sandbox_id, headers.get(b"e2b-traffic-access-token"))

    def failure(self, target: Target) -> Response:
        """What to say when something unexpected was raised before the response started."""
        shape = interpreter_response if target.port == INTERPRETER_PORT else gateway_response
        return shape(target.sandbox_id, internal())

    async def _interpreter(
        self, sandbox_id: str, method: str, path: str, headers: Headers, receive: Receive
    ) -> Response:
        if path == "/health" and method in ("GET", "HEAD"):
            await require_running(self._backend, sandbox_id)
            return Response(INTERPRETER_HEALTH, media_type="application/json")
        response = await contexts(self._backend, sandbox_id, method, path, headers, receive)
        if response is not None:
            return response
        await require_running(self._backend, sandbox_id)
        if path in ("/health", "/execute"):
            return text_response(405, "Method Not Allowed", {"allow": "GET" if path == "/health" else "POST"})
        return text_response(404, "Not Found")
