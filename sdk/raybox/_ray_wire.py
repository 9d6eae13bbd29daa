"""What goes over Ray, and what it means; pure, and without Ray (docs/protocol.md, "Over Ray").

Steps are generators that say what they wait for and are told what came of it, so that they are written once for the
blocking and the asyncio half; `_ray.py` runs them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import urlsplit

from ._requests import Request, check_headers
from ._responses import head_limit_s, late_head

#: Ray namespace of every actor of every pool.
NAMESPACE: Final = "raybox"
#: Ray sends what is smaller than 100 KiB with the call itself, and everything else by way of its object store.
PIECE_BYTES: Final = 96 * 1024
#: One call waits for so long; then it is made again.
WAIT_S: Final = 10.0
#: After so long an execution counts as begun, whether or not it has said anything: as over HTTP.
BEGUN_AFTER_S: Final = 20.0
#: Between two attempts to reach a manager or a front that is being replaced.
RETRY_PAUSE_S: Final = 0.1

#: A sandbox's id begins with the first digits of its node's id and the number of its actor there, in base 36.
_SANDBOX_ID = re.compile(r"i([0-9a-f]{12})([0-9a-z]{4})[0-9a-z]{24}")
_MANAGER = re.compile(r"([A-Za-z0-9_-]+)-manager")


# --- steps -----------------------------------------------------------------------------------------------------------


class Find(NamedTuple):
    """Wait for the handle of a living actor. Raises NoActor, TimeoutError, CallFailed."""

    name: str
    limit_s: float | None


class Wait(NamedTuple):
    """Wait for the answer to a call. Raises ActorDied, CallFailed, TimeoutError; then it goes on and can be waited for
    again."""

    call: Any
    limit_s: float | None


class Next(NamedTuple):
    """Wait for the next piece of a caller's body; None at its end."""

    pieces: Any


class Pause(NamedTuple):
    delay_s: float


class Names(NamedTuple):
    """Wait for the names of all actors of the namespace. Raises CallFailed, TimeoutError."""

    limit_s: float | None


Ask: TypeAlias = Find | Wait | Next | Pause | Names
Value = TypeVar("Value")
Steps: TypeAlias = Generator[Ask, Any, Value]


class NoActor(Exception):
    """No living actor has this name."""


class ActorDied(Exception):
    """The actor is dead; what it was asked may have been done or not."""


class CallFailed(Exception):
    """The call brought no answer; what it was for may have been done or not."""


class Limits:
    """How long the steps of one request may take, from now on."""

    def __init__(self, request: Request, clock: Any = time.monotonic) -> None:
        self._clock, self._began_s = clock, clock()
        self._idle_s, self._total_s = request.idle_s, request.total_s
        self._head_s, self.late_head = head_limit_s(request), late_head(request)

    def head_s(self) -> float | None:
        """Until the answer must have begun."""
        return self.rest_s() if self._idle_s is not None else self._left_s(self._head_s)

    def rest_s(self) -> float | None:
        """For the next step of an answer that has begun."""
        left_s = self._left_s(self._total_s)
        return min((s for s in (self._idle_s, left_s) if s is not None), default=None)

    def _left_s(self, limit_s: float | None) -> float | None:
        return None if limit_s is None else max(self._began_s + limit_s - self._clock(), 0.001)


# --- names -----------------------------------------------------------------------------------------------------------


def pool_and_target(url: str) -> tuple[str, str]:
    """The name of the pool, empty if none is given, and path and query."""
    parts = urlsplit(url)
    return parts.netloc, parts.path + (f"?{parts.query}" if parts.query else "")


def manager_name(pool: str) -> str:
    return f"{pool}-manager"


def sandbox_actor_name(pool: str, sandbox_id: str) -> str | None:
    """Of the actor that holds a sandbox, or held it; None for what cannot be the id of one."""
    match = _SANDBOX_ID.fullmatch(sandbox_id)
    return None if match is None else f"{pool}-sandbox-{match[1]}-{int(match[2], 36)}"


def pools(actor_names: Iterable[str]) -> list[str]:
    """The pools that these actors belong to."""
    return sorted({match[1] for name in actor_names if (match := _MANAGER.fullmatch(name))})


# --- requests and answers --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def own_headers(headers: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Those of raybox's own, with names in lower case. Raises InvalidArgumentException for what no header can hold."""
    check_headers(headers)
    lower = {name.lower(): value for name, value in headers}
    return {name: value for name, value in lower.items() if name.startswith("x-raybox-")}


def repeatable(request: Request) -> bool:
    """Whether it may be sent again to another front when nobody knows what became of it at the first."""
    once = any(name == "Idempotency-Key" for name, _ in request.headers)
    return isinstance(request.body, bytes) and (request.method == "GET" or once)


def cut(data: bytes) -> Iterator[bytes]:
    """In pieces that one call can carry; at least one."""
    for start in range(0, len(data) or 1, PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def pieces_of(body: bytes | Iterable[bytes] | AsyncIterable[bytes]) -> Iterator[bytes] | AsyncIterator[bytes]:
    if isinstance(body, bytes):
        return iter((body,))
    return iter(body) if isinstance(body, Iterable) else aiter(body)


#: HTTP's status for the errors of an execution: of those that have one of their own, and by kind.
_STATUS: Mapping[object, int] = {
    "Conflict": 409,
    "ExecutionForgotten": 410,
    "bad_request": 400,
    "auth": 403,
    "not_found": 404,
    "limit": 429,
    "capacity": 503,
}


def reply_of_error(sandbox_id: str | None, error: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body that the gateway gives for an error of the interpreter's plane."""
    traits = {name: error[name] for name in ("kind", "retryable", "should_mask_sample", "cause") if name in error}
    if error["kind"] == "sandbox_lost" or error.get("what") == "sandbox":
        body = {"sandboxId": sandbox_id, "message": "The sandbox was not found", "code": 502, **traits}
        return 502, {"content-type": "application/json"}, json.dumps(body).encode()
    text = str(error["message"])
    if "what" in error:
        text = f"{str(error['what']).capitalize()} {error['name']} not found"
    headers = {"content-type": "text/plain"}
    headers |= {f"x-raybox-{name.replace('_', '-')}": str(value).lower() for name, value in traits.items()}
    status = _STATUS.get(error.get("error")) or _STATUS.get(error["kind"], 500)
    return status, headers, text.encode("utf-8", "replace")


NO_SUCH_SANDBOX: Mapping[str, Any] = {
    "kind": "not_found",
    "message": "sandbox not found",
    "retryable": False,
    "should_mask_sample": True,
    "what": "sandbox",
}


def unreachable(detail: str) -> Mapping[str, Any]:
    message = f"the sandbox's actor cannot be reached: {detail}"
    return {"kind": "internal", "message": message, "retryable": True, "should_mask_sample": True}
