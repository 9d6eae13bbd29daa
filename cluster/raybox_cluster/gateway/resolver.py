"""Whose request is it: the control plane's, or a sandbox's? Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from raybox_actors.errors import BadRequest

from .asgi import Headers

MAX_SANDBOX_ID_CHARS = 64
MAX_HOST_BYTES = 255

_HOST = re.compile(rb"^(\d+)-([a-z0-9]+)\.")
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_SANDBOX_ID_CHARS)
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
