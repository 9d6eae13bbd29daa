"""Port 49983, the sandbox's agent: files and processes (contract 4.2 to 4.6). Plain ASGI, no framework."""

from __future__ import annotations

import time
from urllib.parse import parse_qsl

from starlette.responses import Response

from raybox_actors.agent.api import Agent
from raybox_actors.errors import BadRequest, NotFound, RayboxError
from raybox_actors.values import SandboxInfo

from . import connect, filesystem_messages
from .asgi import Headers, Receive, Scope, WatchedSend, body_pieces, json_response
from .backend import Backend
from .downloads import send_file
from .errors import envd_response, framework_response
from .http_values import metadata_of
from .metrics import agent_metrics_body
from .multipart import boundary_of
from .routes_filesystem import FILESYSTEM
from .routes_process import PROCESS
from .rpc import Alive, Method, serve, telling
from .signatures import AccessDenied, Operation, check_access, check_files_access
from .traffic import TrafficTokens
from .uploads import unzipped, write_body, write_form

#: The agent's own housekeeping, which nobody outside the sandbox's host may call (contract 4.1).
INTERNAL_PATHS = frozenset(("/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"))
SERVICES = {"process.Process": PROCESS, "filesystem.Filesystem": FILESYSTEM}

MAX_QUERY_BYTES = 64 * 1024
_UNSUPPORTED = "unsupported Content-Encoding: a file comes as it is, or gzipped"


class Envd:
    """Answers for the agents of all sandboxes. Stateless."""

    def __init__(self, backend: Backend, tokens: TrafficTokens) -> None:
        self._backend, self._tokens = backend, tokens

    async def __call__(
        self, sandbox_id: str, headers: Headers, scope: Scope, receive: Receive, send: WatchedSend
    ) -> None:
        """Raises what says that the sandbox is gone, also in the middle; ClientGone; StreamAborted."""

        async def alive() -> None:
            await require_running(self._backend, sandbox_id)

        path: str = scope["path"]
        method: str = scope["method"]
        try:
            if path == "/health":
                await alive()
                response: Response | None = _health(method)
            elif path == "/files":
                response = await self._files(sandbox_id, alive, headers, scope, receive, send)
            elif path in INTERNAL_PATHS:
                await alive()
                response = framework_response(404, "Not Found")
            else:
                check_access(await self._tokens.envd_token(sandbox_id), headers.get(b"x-access-token"))
                service, _, name = path[1:].partition("/")
                called = SERVICES.get(service, {}).get(name)
                if called is not None and method == "POST":
                    await serve(called, lambda: self._backend.agent(sandbox_id), alive, headers, scope, receive, send)
                    return
                response = await self._answer(sandbox_id, method, path, called)
        except AccessDenied as error:  # of a sandbox that is gone, that is what counts
            await alive()
            response = envd_response(error)
        if response is not None:
            await response(scope, receive, send)

    async def _answer(self, sandbox_id: str, method: str, path: str, called: Method | None) -> Response:
        if method in ("GET", "HEAD") and path == "/envs":
            return json_response(200, await self._backend.environment(sandbox_id))
        if method in ("GET", "HEAD") and path == "/metrics":
            samples = await self._backend.metrics(sandbox_id, time.time())
            return json_response(200, agent_metrics_body(samples[-1]) if samples else {})
        await require_running(self._backend, sandbox_id)
        if path in ("/metrics", "/envs"):
            return _not_allowed("GET, HEAD")
        if called is not None:
            return _not_allowed("POST")
        if path[1:].partition("/")[0] in SERVICES:
            return json_response(501, {"code": "unimplemented", "message": "there is no such method"})
        return framework_response(404, "Not Found")

    async def _files(
        self, sandbox_id: str, alive: Alive, headers: Headers, scope: Scope, receive: Receive, send: WatchedSend
    ) -> Response | None:
        """None when it has been sent already."""
        method: str = scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            await alive()
            return _not_allowed("GET, HEAD, POST")
        operation: Operation = "write" if method == "POST" else "read"
        token = await self._tokens.envd_token(sandbox_id)
        try:
            query = files_query(scope["query_string"])
            check_files_access(token, headers.get(b"x-access-token"), operation, query, time.time())
            user = connect.check_user(query.get("username", ""))
            agent = await self._backend.agent(sandbox_id)
            if operation == "write":
                return json_response(200, await _upload(agent, _path(query), user, headers, receive))
            await send_file(agent, _path(query) or "", user, headers, scope, receive, send)
            return None
        except AccessDenied:
            raise
        except RayboxError as error:
            if send.started:
                raise
            return envd_response(await telling(error, alive))


async def require_running(backend: Backend, sandbox_id: str) -> SandboxInfo:
    """A paused sandbox is not there either, as far as its ports are concerned. Raises NotFound, SandboxLost."""
    info = await backend.info(sandbox_id)
    if info.state != "running":
        raise NotFound("sandbox", sandbox_id)
    return info


async def _upload(agent: Agent, path: str | None, user: str, headers: Headers, receive: Receive) -> object:
    metadata = metadata_of(headers)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"", b"gzip", b"x-gzip"):
        raise BadRequest(_UNSUPPORTED)
    body = body_pieces(receive)
    if encoding.endswith(b"gzip"):
        body = unzipped(body)
    kind = connect.media_type(headers)
    if kind == b"multipart/form-data":
        boundary = boundary_of(headers[b"content-type"])
        entries = await write_form(agent, path, user, metadata, boundary, body)
    elif kind == b"application/octet-stream":
        if path is None:
            raise BadRequest("path is required")
        entries = [await write_body(agent, path, user, metadata, body)]
    else:
        raise BadRequest("the body must be multipart/form-data or application/octet-stream")
    return [filesystem_messages.upload_body(entry) for entry in entries]


def files_query(query_string: bytes) -> dict[str, str]:
    """The query of /files; of a repeated parameter the first counts. Raises BadRequest."""
    if len(query_string) > MAX_QUERY_BYTES:
        raise BadRequest(f"the query is longer than {MAX_QUERY_BYTES} bytes")
    try:
        pairs = parse_qsl(
            query_string.decode("utf-8", "surrogateescape"),
            keep_blank_values=True,
            max_num_fields=256,
            errors="surrogateescape",
        )
    except ValueError:
        raise BadRequest("the query cannot be read") from None
    return dict(reversed(pairs))


def _path(query: dict[str, str]) -> str | None:
    """None if it is not given, or empty, which an upload of several files says. Raises BadRequest."""
    path = query.get("path") or None
    if path is not None:
        if len(path) > filesystem_messages.MAX_PATH_CHARS:
            raise BadRequest(f"path is longer than {filesystem_messages.MAX_PATH_CHARS} characters")
        if "\0" in path:
            raise BadRequest("path must not contain NUL")
        try:
            path.encode()
        except UnicodeEncodeError:
            raise BadRequest("path is not valid UTF-8") from None
    return path


def _health(method: str) -> Response:
    return Response(status_code=204) if method in ("GET", "HEAD") else _not_allowed("GET, HEAD")


def _not_allowed(allow: str) -> Response:
    return framework_response(405, "Method Not Allowed", {"allow": allow})
