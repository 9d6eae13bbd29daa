"""/contexts on port 49999: create, list, restart and remove the contexts of a sandbox."""

from __future__ import annotations

from starlette.responses import Response

from raybox_actors.errors import NotFound

from .asgi import Headers, Receive, json_response, read_body, text_response
from .backend import Backend
from .wire import MAX_CONTEXT_BODY_BYTES, context_body, is_context_id, parse_new_context


async def contexts(
    backend: Backend, sandbox_id: str, method: str, path: str, headers: Headers, receive: Receive
) -> Response | None:
    """None if `path` is no route of this resource. Raises RayboxError and ClientGone."""
    match path.split("/")[1:]:
        case ["contexts"] if method == "GET":
            return json_response(200, [context_body(context) for context in await backend.contexts(sandbox_id)])
        case ["contexts"] if method == "POST":
            language, cwd = parse_new_context(await read_body(receive, headers, MAX_CONTEXT_BODY_BYTES))
            return json_response(200, context_body(await backend.create_context(sandbox_id, language, cwd)))
        case ["contexts"]:
            return _not_allowed("GET, POST")
        case ["contexts", context_id, "restart"] if method == "POST":
            await backend.restart_context(sandbox_id, _checked(context_id))
            return json_response(200, None)
        case ["contexts", _, "restart"]:
            return _not_allowed("POST")
        case ["contexts", context_id] if method == "DELETE":
            await backend.remove_context(sandbox_id, _checked(context_id))
            return json_response(200, None)
        case ["contexts", _]:
            return _not_allowed("DELETE")
    return None


def _checked(context_id: str) -> str:
    if not is_context_id(context_id):
        raise NotFound("context", context_id[:128])
    return context_id


def _not_allowed(allow: str) -> Response:
    return text_response(405, "Method Not Allowed", {"allow": allow})
