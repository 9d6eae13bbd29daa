"""Whose request is it: the control plane's, or a sandbox's? Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from raybox_actors.errors import BadRequest

from .asgi import Headers

#: Where clients expect the agent for files and processes.
ENVD_PORT = 49983
MAX_SANDBOX_ID_CHARS = 64
MAX_HOST_BYTES = 255

_HOST = re.compile(rb"^(\d+)-([a-z0-9]+)\.")
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_SANDBOX_ID_CHARS)
_CONNECT = re.compile(r"(?:/v[0-9]+)?/sandboxes/[^/]+/connect")
_PATH = re.compile(r"(?:/v[0-9]+)?/sandboxes/([^/]+)")
#: Words in the place of an id.
_NO_IDS = frozenset({"metrics"})
_SANDBOX_ID = re.compile(rf"[a-z0-9]{{1,{MAX_SANDBOX_ID_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Target:
    """A sandbox and one of its ports. The id may still be one that no sandbox can have."""

    sandbox_id: str
    port: int


def is_sandbox_id(text: str) -> bool:
    """Whether any sandbox could have this id; everything else need not be looked for."""
    return _SANDBOX_ID.fullmatch(text) is not None


def sandbox_in_path(path: str) -> str | None:
    """The sandbox that a path of the control plane is about, whatever is done with it; None if it is about none."""
    match = _PATH.match(path)
    named = match is not None and is_sandbox_id(match[1]) and match[1] not in _NO_IDS
    return match[1] if match is not None and named else None


def is_for_control_plane(target: Target | None, headers: Headers, path: str) -> bool:
    """Whether a resolved request is the control plane's all the same.

    `connect` of older clients (seen: `e2b` 2.26) carries the headers of the sandbox's agent. The agent has no such
    path, and no client sends it an API key.
    """
    if target is None:
        return True
    return target.port == ENVD_PORT and b"x-api-key" in headers and _CONNECT.fullmatch(path) is not None


def resolve(headers: Headers) -> Target | None:
    """The sandbox that a request is for, or None for the control plane. Headers win over the host name.

    Raises BadRequest for half a pair of headers, and for ids and ports that are overlong or no such thing.
    """
    sandbox_id = headers.get(b"e2b-sandbox-id")
    port = headers.get(b"e2b-sandbox-port")
    if sandbox_id is None and port is None:
        host = headers.get(b"host", b"")
        label = _HOST.match(host.lower()) if len(host) <= MAX_HOST_BYTES else None
        if label is None:
            return None
        port, sandbox_id = label.groups()
    if sandbox_id is None or port is None:
        raise BadRequest("E2b-Sandbox-Id and E2b-Sandbox-Port go together")
    if not _PRINTABLE.fullmatch(sandbox_id):
        raise BadRequest(f"the sandbox id must be 1 to {MAX_SANDBOX_ID_CHARS} printable ASCII characters")
    if not (port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise BadRequest("the sandbox port must be a number from 1 to 65535")
    return Target(sandbox_id.decode("ascii"), int(port))
