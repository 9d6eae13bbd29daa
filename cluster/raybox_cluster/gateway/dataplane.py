"""The data plane: requests for one port of one sandbox. Plain ASGI, no framework."""

from __future__ import annotations

from starlette.responses import Response

from raybox_actors.errors import NotFound, RayboxError
from raybox_actors.values import SandboxInfo

from .asgi import Headers, Receive, Scope, Send, text_response
from .backend import Backend
from .errors import gateway_response, internal, interpreter_response, port_closed_response
from .resolver import Target, is_sandbox_id
from .routes_contexts import contexts
from .routes_envd import envd
from .routes_execute import Executions
from .traffic import TrafficTokens
from .wire import INTERPRETER_HEALTH

INTERPRETER_PORT = 49999
ENVD_PORT = 49983


class DataPlane:
    def __init__(self, backend: Backend, tokens: TrafficTokens, executions: Executions) -> None:
        self._backend = backend
        self._tokens = tokens
        self._executions = executions

    async def __call__(self, target: Target, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers every RayboxError. Raises what `Executions.execute` raises, and what nobody expected."""
        shape = interpreter_response if target.port == INTERPRETER_PORT else gateway_response
        try:
            if not is_sandbox_id(target.sandbox_id):
                raise NotFound("sandbox", target.sandbox_id)
            if target.port != ENVD_PORT:
                await self._tokens.check(target.sandbox_id, headers.get(b"e2b-traffic-access-token"))
            if target.port == INTERPRETER_PORT and scope["path"] == "/execute" and scope["method"] == "POST":
                await self._executions.execute(target.sandbox_id, headers, receive, send)
                return
            response = await self._answer(target, headers, scope, receive)
        except RayboxError as error:
            response = shape(target.sandbox_id, error)
        await response(scope, receive, send)

    def failure(self, target: Target) -> Response:
        """What to say when something unexpected was raised before the response started."""
        shape = interpreter_response if target.port == INTERPRETER_PORT else gateway_response
        return shape(target.sandbox_id, internal())

    async def _answer(self, target: Target, headers: Headers, scope: Scope, receive: Receive) -> Response:
        method, path = scope["method"], scope["path"]
        if target.port == INTERPRETER_PORT:
            return await self._interpreter(target.sandbox_id, method, path, headers, receive)
        await self._alive(target.sandbox_id)
        return envd(method, path) if target.port == ENVD_PORT else port_closed_response(target.sandbox_id, target.port)

    async def _interpreter(
        self, sandbox_id: str, method: str, path: str, headers: Headers, receive: Receive
    ) -> Response:
        if path == "/health" and method in ("GET", "HEAD"):
            await self._alive(sandbox_id)
            return Response(INTERPRETER_HEALTH, media_type="application/json")
        response = await contexts(self._backend, sandbox_id, method, path, headers, receive)
        if response is not None:
            return response
        await self._alive(sandbox_id)
        if path in ("/health", "/execute"):
            return text_response(405, "Method Not Allowed", {"allow": "GET" if path == "/health" else "POST"})
        return text_response(404, "Not Found")

    async def _alive(self, sandbox_id: str) -> SandboxInfo:
        """A paused sandbox is not there either, as far as its ports are concerned."""
        info = await self._backend.info(sandbox_id)
        if info.state != "running":
            raise NotFound("sandbox", sandbox_id)
        return info
