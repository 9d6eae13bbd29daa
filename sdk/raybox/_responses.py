"""Answers of the server -> values and errors, without I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar

from ._envd_models import SandboxMetrics
from ._errors import (
    KINDS,
    AuthenticationException,
    GangException,
    InvalidArgumentException,
    Kind,
    LimitException,
    NotEnoughSpaceException,
    NotFoundException,
    OutOfMemoryException,
    RateLimitException,
    RayboxError,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxUnreachableException,
    ServiceBusyException,
    TimeoutException,
)
from ._models import Context, SandboxInfo, SandboxState
from ._pool_models import MemberReport, PoolCapacity
from ._requests import Request

T = TypeVar("T")

#: An error message is cut here: a proxy's error page is not worth more.
MAX_MESSAGE_CHARS = 2000

#: What the gateway says of a sandbox that is not there, and of a port where nothing listens.
NOT_FOUND_TEXT = "was not found"
PORT_CLOSED_TEXT = "port is not open"

CONTROL_PLANE = frozenset(
    {
        "create",
        "connect",
        "list",
        "info",
        "kill",
        "set_timeout",
        "get_metrics",
        "update_network",
        "lease",
        "release_lease",
        "heartbeat",
        "create_many",
        "exec_many",
        "capacity",
    }
)

EXECUTIONS = frozenset({"execute", "attach_execution"})
COMMANDS = frozenset({"run_command", "connect_command"})
#: What `timeout` bounds, and not `request_timeout`.
STREAMS = COMMANDS | {"stream_input", "watch_dir"}

#: Statuses that say "not now": the server has changed nothing.
BUSY_STATUSES = frozenset({429, 503})
#: Statuses that a proxy gives when it does not know what became of the request.
UNSURE_STATUSES = frozenset({502, 504})

BACKOFF_BASE_S = 0.1
BACKOFF_MAX_S = 10.0


class Reply(NamedTuple):
    """A complete answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Stage = Literal["connect", "connect_timeout", "head_timeout", "timeout", "broken"]


class TransportFailure(Exception):
    """What a transport raises when there is no answer, or not all of it.

    stage: `connect`, `connect_timeout`: the server was not reached and has seen nothing. `head_timeout`: it was, but
    its answer did not begin within `connect_s`. `timeout`: `total_s` ran out. `broken`: the connection was lost after
    the request had gone out.
    """

    def __init__(self, stage: Stage, detail: str = "") -> None:
        super().__init__(stage, detail)
        self.stage, self.detail = stage, detail


def head_limit_s(request: Request) -> float | None:
    """What may pass until the answer begins."""
    return min((limit for limit in (request.connect_s, request.total_s) if limit is not None), default=None)


def late_head(request: Request) -> Stage:
    """What it means that it did not begin within that."""
    return "timeout" if head_limit_s(request) == request.total_s else "head_timeout"


# --- errors ----------------------------------------------------------------------------------------------------------

#: The class for each kind that a server may name.
CLASS_OF_KIND: Mapping[Kind, type[RayboxError]] = {
    "auth": AuthenticationException,
    "bad_request": InvalidArgumentException,
    "capacity": ServiceBusyException,
    "internal": SandboxException,
    "limit": LimitException,
    "not_found": NotFoundException,
    "oom": OutOfMemoryException,
    "sandbox_lost": SandboxNotRunningException,
    "timeout": TimeoutException,
    "user_code": SandboxException,
}

#: The class, and the kind if it is not the class's own, for each status, when no kind is named.
CLASS_OF_STATUS: Mapping[int, tuple[type[RayboxError], Kind | None]] = {
    400: (InvalidArgumentException, None),
    401: (AuthenticationException, None),
    403: (SandboxException, "auth"),
    404: (NotFoundException, None),
    409: (SandboxException, "bad_request"),
    410: (SandboxNotRunningException, None),
    413: (LimitException, None),
    422: (InvalidArgumentException, None),
    429: (RateLimitException, None),
    502: (SandboxException, None),
    503: (ServiceBusyException, None),
    504: (SandboxException, None),
    507: (NotEnoughSpaceException, None),
}


def error_of(request: Request, reply: Reply) -> RayboxError:
    """The error that an unwelcome answer means: by its `kind` if it names one, else by status and text."""
    details = details_of(reply.body) or _traits(reply.headers)
    status = reply.status
    message = _text(details.get("message")) or _plain_text(reply.body) or "no further explanation"
    sandbox_id = _text(details.get("sandboxId")) or request.sandbox_id
    named = details.get("kind")
    kind: Kind | None = named if isinstance(named, str) and named in KINDS else None  # type: ignore[assignment]  # `in KINDS` does not narrow
    retryable = details.get("retryable")
    mask = details.get("should_mask_sample")
    on_data_plane = request.operation not in CONTROL_PLANE

    chosen: type[RayboxError]
    if status == 404 and not on_data_plane and request.sandbox_id is not None:
        # E2B's class for "no such sandbox", whether or not the server still knows how it ended.
        chosen, kind = SandboxNotFoundException, kind or "not_found"
    elif kind is not None:
        chosen = CLASS_OF_KIND[kind]
        if request.operation == "create_many" and "report" in details:
            chosen = GangException
        elif kind == "capacity" and status == 429:
            chosen = RateLimitException
        if kind == "limit" and status == 507:
            chosen = NotEnoughSpaceException
    elif status == 502 and on_data_plane:
        chosen = SandboxNotRunningException if NOT_FOUND_TEXT in message else SandboxUnreachableException
    else:
        fallback = InvalidArgumentException if 400 <= status < 500 else SandboxException
        chosen, kind = CLASS_OF_STATUS.get(status, (fallback, None))
    if not isinstance(retryable, bool):
        retryable = True if status in (500, 502, 504) or (status == 409 and on_data_plane) else None
        if chosen is SandboxNotRunningException or (kind or chosen.kind) not in ("internal", "bad_request"):
            retryable = None  # the class knows better
    prefix = "" if status in (401, 404) else f"{status}: "
    error = chosen(
        prefix + message,
        status,
        kind,
        retryable,
        mask if isinstance(mask, bool) else None,
        sandbox_id,
        _text(details.get("cause")),
        _retry_after_s(details, reply.headers),
    )
    if isinstance(error, GangException):
        error.report = _report(details["report"])
    return error


def _report(listed: object) -> tuple[MemberReport, ...]:
    try:
        return tuple(MemberReport.from_json(entry) for entry in listed)  # type: ignore[attr-defined]  # or it fails
    except (KeyError, TypeError):
        return ()


def error_of_failure(request: Request, failure: TransportFailure) -> RayboxError:
    """The error that no answer at all means."""
    where = request.url.split("?")[0]
    sandbox_id = request.sandbox_id
    if failure.stage in ("connect_timeout", "head_timeout") or (
        failure.stage == "timeout" and request.operation not in (*EXECUTIONS, *STREAMS)
    ):
        reached = failure.stage != "connect_timeout"
        if request.idle_s is not None:
            return TimeoutException(
                f"{request.operation}: nothing was sent or received for {request.idle_s:g} s ({where})",
                retryable=not reached or request.method == "GET",
                sandbox_id=sandbox_id,
            )
        return TimeoutException(
            f"{request.operation}: no answer from {where} within {_limit(request)} s (request_timeout)",
            retryable=not reached or request.method == "GET",
            sandbox_id=sandbox_id,
        )
    if failure.stage == "timeout" and request.operation in STREAMS:
        what = "the command" if request.operation in COMMANDS else request.operation
        return TimeoutException(
            f"{what} took longer than its timeout; a command that was started with it is killed",
            should_mask_sample=False,
            sandbox_id=sandbox_id,
        )
    if failure.stage == "timeout" and request.operation == "attach_execution":
        return TimeoutException(
            f"the execution did not end within timeout={request.total_s:g} s; it goes on",
            retryable=True,
            should_mask_sample=False,
            sandbox_id=sandbox_id,
        )
    if failure.stage == "timeout":
        return TimeoutException(
            f"the execution took longer than timeout={request.total_s:g} s and was interrupted; "
            "its context keeps its state",
            should_mask_sample=False,
            sandbox_id=sandbox_id,
        )
    text = f"{request.operation}: no connection to {where}: {failure.detail}"
    if failure.stage == "broken":
        text = f"{request.operation}: the connection to {where} was lost: {failure.detail}"
    # What went out before a connection broke may have taken effect.
    retryable = failure.stage == "connect" or request.method == "GET"
    if request.operation not in CONTROL_PLANE:
        return SandboxUnreachableException(text, retryable=retryable, sandbox_id=sandbox_id)
    return SandboxException(text, retryable=retryable, sandbox_id=sandbox_id)


def error_of_cut_answer(request: Request, probe: Reply | None, detail: str) -> RayboxError:
    """The error when an answer stopped before its end; `probe` is what /health said then, None if nothing."""
    what = f"the request ({request.operation})"
    if request.operation in (*EXECUTIONS, *COMMANDS):
        what = "the execution" if request.operation in EXECUTIONS else "the command"
    if probe is not None and probe.status == 502:
        told = error_of(request._replace(operation="health"), probe)
        if told.kind == "sandbox_lost":
            return SandboxNotRunningException(
                f"sandbox {request.sandbox_id} ended during {what}: "
                + (told.cause or "it was killed or reached its timeout, or its node was lost"),
                told.status_code,
                sandbox_id=request.sandbox_id,
                cause=told.cause,
            )
    running = probe is not None and probe.status < 300
    chosen = SandboxException if running else SandboxUnreachableException
    return chosen(
        f"the answer to {what} stopped before its end ({detail}); "
        + ("the sandbox is running" if running else "the sandbox's state is unknown"),
        retryable=request.method == "GET",  # anything else may have taken effect
        sandbox_id=request.sandbox_id,
    )


def broken_reply(request: Request, reply: Reply, error: Exception | str) -> RayboxError:
    """The error when a successful answer does not hold what it must."""
    return SandboxException(
        f"{request.operation}: the server's answer cannot be used ({error!r}): {_plain_text(reply.body)[:200]!r}",
        reply.status,
        sandbox_id=request.sandbox_id,
    )


def details_of(body: bytes) -> dict[str, Any]:
    """What the body of an error says; nothing when it is no JSON object."""
    try:
        details = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return details if isinstance(details, dict) else {}


def _traits(headers: Mapping[str, str]) -> dict[str, Any]:
    """What the code interpreter's errors, whose bodies are plain text, say in headers."""
    traits: dict[str, Any] = {}
    for name in ("kind", "cause", "retryable", "should_mask_sample"):
        if (text := headers.get(f"x-raybox-{name.replace('_', '-')}")) is not None:
            traits[name] = {"true": True, "false": False}.get(text, text)
    return traits


def _plain_text(body: bytes) -> str:
    return body[:MAX_MESSAGE_CHARS].decode(errors="replace").strip()


def _text(value: object) -> str | None:
    return value[:MAX_MESSAGE_CHARS] if isinstance(value, str) and value else None


def _limit(request: Request) -> str:
    limits_s = [limit_s for limit_s in (request.connect_s, request.total_s) if limit_s is not None]
    return f"{min(limits_s):g}" if limits_s else "unlimited"


def _retry_after_s(details: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    try:
        after_s = float(details.get("retry_after_s", headers.get("retry-after")))
    except (TypeError, ValueError):
        return None
    return after_s if 0 <= after_s < float("inf") else None


def retry_delay_s(request: Request, reply: Reply, attempt: int, random: Callable[[], float]) -> float | None:
    """Seconds after which to repeat a control-plane request, None if it must not be; `attempt` counts from 0.

    The server's `Should-Retry` header decides if it is there. Else "not now" is repeated always, and "unsure" unless it
    could create a second sandbox.
    """
    if attempt >= request.retries:
        return None
    verdict = reply.headers.get("should-retry")
    if verdict is not None:
        if verdict.strip().lower() != "true":
            return None
    elif reply.status in UNSURE_STATUSES:
        if request.operation == "create" and not any(name == "Idempotency-Key" for name, _ in request.headers):
            return None
    elif reply.status not in BUSY_STATUSES:
        return None
    after_s = _retry_after_s({}, reply.headers)
    if after_s is not None:
        return after_s
    return backoff_s(attempt, random)


def reconnect_delay_s(
    request: Request, failure: TransportFailure, attempt: int, random: Callable[[], float]
) -> float | None:
    """Seconds after which to connect again, None if that must not be; `attempt` counts from 0."""
    if failure.stage != "connect" or attempt >= request.connect_retries:
        return None
    return backoff_s(attempt, random)


def backoff_s(attempt: int, random: Callable[[], float], max_s: float = BACKOFF_MAX_S) -> float:
    """Twice as long from attempt to attempt; `attempt` counts from 0."""
    return min(BACKOFF_BASE_S * 2.0**attempt, max_s) * (0.5 + random() / 2)


# --- values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Access:
    """What create and connect answer: how to reach the sandbox."""

    sandbox_id: str
    domain: str | None
    envd_version: str
    envd_token: str | None
    traffic_token: str | None
    timings_ms: Mapping[str, float] = field(default_factory=dict)


def access(request: Request, reply: Reply) -> Access:
    return _access(request, reply, _object(request, reply))


def accesses(request: Request, reply: Reply) -> list[Access]:
    """Of sandboxes that were created together."""
    listed = _object(request, reply).get("sandboxes")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise broken_reply(request, reply, "expected a list")
    return [_access(request, reply, entry) for entry in listed]


def leased(request: Request, reply: Reply) -> tuple[Access, bool, float, datetime]:
    """How to reach the sandbox of a lease, whether it was made just now, its ttl in seconds, and when it ends."""
    body = _object(request, reply)
    try:
        told = _access(request, reply, dict(body["sandbox"]))
        return told, bool(body["created"]), float(body["ttl_s"]), datetime.fromisoformat(body["expiresAt"])
    except (KeyError, TypeError, ValueError) as error:
        raise broken_reply(request, reply, error) from error


def capacity(request: Request, reply: Reply) -> PoolCapacity:
    return parsed_by(PoolCapacity.from_json, request, _object(request, reply))


def _access(request: Request, reply: Reply, body: dict[str, Any]) -> Access:
    extra = body.get("raybox")
    timings = extra.get("timings_ms") if isinstance(extra, dict) else None
    try:
        return Access(
            sandbox_id=body["sandboxID"],
            domain=body.get("domain") or None,
            envd_version=body["envdVersion"],
            envd_token=body.get("envdAccessToken") or None,
            traffic_token=body.get("trafficAccessToken") or None,
            timings_ms={
                name: float(value)
                for name, value in (timings.items() if isinstance(timings, dict) else ())
                if isinstance(value, (int, float))
            },
        )
    except KeyError as error:
        raise broken_reply(request, reply, error) from error


def sandbox_info(request: Request, reply: Reply) -> SandboxInfo:
    return _info(request, reply, _object(request, reply))


def sandbox_page(request: Request, reply: Reply) -> tuple[list[SandboxInfo], str | None]:
    """The sandboxes of one page, and the token of the next one, None after the last."""
    page = parsed(request, reply)
    if not isinstance(page, list):
        raise broken_reply(request, reply, "expected a list")
    return [_info(request, reply, entry) for entry in page], reply.headers.get("x-next-token") or None


def context(request: Request, reply: Reply) -> Context:
    return _context(request, reply, parsed(request, reply))


def contexts(request: Request, reply: Reply) -> list[Context]:
    listed = parsed(request, reply)
    if not isinstance(listed, list):
        raise broken_reply(request, reply, "expected a list")
    return [_context(request, reply, entry) for entry in listed]


def _context(request: Request, reply: Reply, data: Any) -> Context:
    try:
        return Context.from_json(data)
    except (KeyError, TypeError) as error:
        raise broken_reply(request, reply, error) from error


def parsed(request: Request, reply: Reply) -> Any:
    """The body as JSON. Raises SandboxException (internal)."""
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise broken_reply(request, reply, error) from error


def parsed_by(read: Callable[[dict[str, Any]], T], request: Request, message: dict[str, Any]) -> T:
    """What `read` makes of a message. Raises SandboxException (internal) when it can make nothing of it."""
    try:
        return read(message)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SandboxException(
            f"{request.operation}: the server's answer cannot be used ({error!r}): {str(message)[:200]}",
            sandbox_id=request.sandbox_id,
        ) from error


def _object(request: Request, reply: Reply) -> dict[str, Any]:
    body = parsed(request, reply)
    if not isinstance(body, dict):
        raise broken_reply(request, reply, "expected an object")
    return body


def _info(request: Request, reply: Reply, data: Any) -> SandboxInfo:
    try:
        lifecycle = data.get("lifecycle")
        return SandboxInfo(
            sandbox_id=data["sandboxID"],
            sandbox_domain=data.get("domain"),
            template_id=data["templateID"],
            name=data.get("alias"),
            metadata=data.get("metadata") or {},
            started_at=datetime.fromisoformat(data["startedAt"]),
            end_at=datetime.fromisoformat(data["endAt"]),
            state=SandboxState(data["state"]),
            cpu_count=data["cpuCount"],
            memory_mb=data["memoryMB"],
            envd_version=data["envdVersion"],
            allow_internet_access=data.get("allowInternetAccess"),
            network=_network_info(data.get("network")),
            lifecycle=lifecycle
            and {"on_timeout": lifecycle["onTimeout"], "auto_resume": bool(lifecycle["autoResume"])},
            volume_mounts=[{"name": mount["name"], "path": mount["path"]} for mount in data.get("volumeMounts") or ()],
            envd_unresponsive_at_pause=True if data.get("envdUnresponsiveAtPause") is True else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise broken_reply(request, reply, error) from error


def metrics(request: Request, reply: Reply) -> list[SandboxMetrics]:
    listed = parsed(request, reply)
    try:
        return [
            SandboxMetrics(
                cpu_count=sample["cpuCount"],
                cpu_used_pct=sample["cpuUsedPct"],
                disk_total=sample["diskTotal"],
                disk_used=sample["diskUsed"],
                mem_total=sample["memTotal"],
                mem_used=sample["memUsed"],
                mem_cache=sample["memCache"],
                timestamp=datetime.fromisoformat(sample["timestamp"]),
            )
            for sample in listed
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise broken_reply(request, reply, error) from error


_NETWORK_NAMES = {
    "allowOut": "allow_out",
    "denyOut": "deny_out",
    "rules": "rules",
    "dnsServers": "dns_servers",
    "allowPublicTraffic": "allow_public_traffic",
    "maskRequestHost": "mask_request_host",
    "httpsPorts": "https_ports",
}


def _network_info(network: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if network is None:
        return None
    info = {ours: network[wire] for wire, ours in _NETWORK_NAMES.items() if network.get(wire) is not None}
    if proxy := network.get("egressProxy"):
        info["egress_proxy"] = {name: proxy[name] for name in ("address", "username") if name in proxy}
        tls = proxy.get("tls")
        if tls and tls.get("enabled"):
            info["egress_proxy"]["tls"] = {"server_name": tls["serverName"]} if "serverName" in tls else {}
    return info
