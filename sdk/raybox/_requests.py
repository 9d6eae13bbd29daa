"""Arguments of calls -> request values, without I/O.

A `Request` says what is asked twice: as an operation with a payload, and as the HTTP request that means the same.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

from ._config import (
    DEFAULT_EXECUTION_TIMEOUT_S,
    ENVD_PORT,
    INTERPRETER_PORT,
    USER_AGENT,
    ConnectionConfig,
    own_ray_node,
    seconds,
)
from ._errors import AuthenticationException, InvalidArgumentException
from ._models import Context, SandboxQuery, context_id
from ._network import iam_tokens, network_body, network_update_body

Operation = Literal[
    "create",
    "connect",
    "list",
    "info",
    "kill",
    "set_timeout",
    "create_many",
    "capacity",
    "execute",
    "attach_execution",
    "interrupt_execution",
    "exec_many",
    "create_context",
    "list_contexts",
    "restart_context",
    "remove_context",
    "health",
    "lease",
    "release_lease",
    "heartbeat",
    "get_metrics",
    "update_network",
    "read_file",
    "write_file",
    "list_files",
    "file_info",
    "make_dir",
    "rename_file",
    "remove_file",
    "create_watcher",
    "watch_dir",
    "watch_events",
    "unwatch_dir",
    "run_command",
    "connect_command",
    "list_commands",
    "send_stdin",
    "close_stdin",
    "stream_input",
    "kill_command",
    "resize_pty",
]

#: What /health may take when it is asked why a stream broke.
PROBE_TIMEOUT_S = 5.0
#: What telling the server may take that an execution which was left is not to go on.
INTERRUPT_TIMEOUT_S = 5.0


class Request(NamedTuple):
    """One call to the server.

    operation, sandbox_id, payload: what is asked, in terms of the protocol. method, url, headers, body: the same as an
    HTTP request; a body that is not bytes is sent piece by piece, and only once. connect_s: seconds until its answer
    begins; total_s: seconds for everything; idle_s, instead of both: seconds without progress; None = no limit.
    retries: how often it may be repeated when the server refuses it for now; connect_retries: when it was not reached.
    proxy: of the HTTP request, None: as the environment says. logger: is told of each request and its status, if there
    is one.
    """

    operation: Operation
    sandbox_id: str | None
    payload: Mapping[str, Any] | None
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | Iterable[bytes] | AsyncIterable[bytes]
    connect_s: float | None
    total_s: float | None
    retries: int = 0
    connect_retries: int = 0
    proxy: str | None = None
    logger: logging.Logger | None = None
    idle_s: float | None = None


class Address(NamedTuple):
    """How to reach one sandbox's data plane. Built once per sandbox, as its headers go with every request."""

    sandbox_id: str
    interpreter_url: str
    interpreter_headers: tuple[tuple[str, str], ...]
    envd_url: str
    envd_headers: tuple[tuple[str, str], ...]


# --- control plane ---------------------------------------------------------------------------------------------------


def create(
    config: ConnectionConfig,
    template: str,
    *,
    timeout: int | None = None,
    metadata: Mapping[str, str] | None = None,
    envs: Mapping[str, str] | None = None,
    allow_internet_access: bool | None = None,
    mcp: object | None = None,
    network: Mapping[str, Any] | None = None,
    iam: Mapping[str, Any] | None = None,
    lifecycle: Mapping[str, Any] | None = None,
    volume_mounts: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    locality: Literal["caller"] | None = None,
    wait_s: float | None = None,
) -> Request:
    if mcp is not None:
        raise InvalidArgumentException("mcp is not supported yet")
    payload: dict[str, Any] = {"templateID": template, "metadata": dict(metadata or {}), "envVars": dict(envs or {})}
    if timeout is not None:
        payload["timeout"] = timeout
    if allow_internet_access is not None:
        payload["allow_internet_access"] = allow_internet_access
    payload.update(_lifecycle(lifecycle))
    tokens = iam_tokens(iam)
    if tokens:
        payload["iam"] = {"tokens": tokens}
    if network is not None:
        payload["network"] = network_body(network, tokens)
    if volume_mounts:
        payload["volumeMounts"] = [
            {"name": getattr(volume, "name", volume), "path": path} for path, volume in volume_mounts.items()
        ]
    if locality not in (None, "caller"):
        raise InvalidArgumentException(f"locality must be 'caller' or None, got {locality!r}")
    ours: dict[str, Any] = {}
    if locality == "caller" and (node_id := own_ray_node()) is not None:
        ours["near_node_id"] = node_id
    limit_s = seconds(wait_s, None, "wait_s") or 0.0
    if wait_s is not None:
        ours["wait_s"] = limit_s
    if ours:
        payload["raybox"] = ours
    extra: tuple[tuple[str, str], ...] = ()
    if idempotency_key is not None:
        if not isinstance(idempotency_key, str) or re.fullmatch(r"[a-z0-9-]{1,255}", idempotency_key) is None:
            raise InvalidArgumentException(
                "idempotency_key must be 1 to 255 lowercase letters, digits or hyphens, got " + repr(idempotency_key)
            )
        extra = (("Idempotency-Key", idempotency_key),)
    return _longer(_control(config, "create", "POST", "/v2/sandboxes", payload=payload, extra=extra), limit_s)


def _longer(request: Request, wait_s: float) -> Request:
    """The server may wait for so long before it answers."""
    connect_s, total_s = (
        None if limit_s is None else limit_s + wait_s for limit_s in (request.connect_s, request.total_s)
    )
    return request._replace(connect_s=connect_s, total_s=total_s)


def create_many(config: ConnectionConfig, count: int, deadline_s: float, create: Request) -> Request:
    """create: the request that would make one by itself. The server waits for as long as deadline_s, and so does the
    request; it is not repeated by itself, since that would be another deadline."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InvalidArgumentException(f"n must be a whole number of sandboxes, at least 1, got {count!r}")
    wait_s = seconds(deadline_s, None, "deadline_s") or 0.0
    payload = {"count": count, "deadline_s": wait_s, "create": create.payload}
    url = f"{config.api_url}/raybox/sandboxes"
    request = create._replace(operation="create_many", payload=payload, url=url, body=_json(payload), retries=0)
    return _longer(request, wait_s)


def capacity(config: ConnectionConfig) -> Request:
    return _control(config, "capacity", "GET", "/raybox/capacity")


def connect(config: ConnectionConfig, sandbox_id: str, timeout: int | None, on_resume: str) -> Request:
    payload: dict[str, Any] = {}
    if timeout is not None:
        payload["timeout"] = timeout
    if on_resume == "reboot":
        payload["memory"] = False
    elif on_resume not in ("restore", None):
        raise InvalidArgumentException(f"on_resume must be 'restore' or 'reboot', got {on_resume!r}")
    return _control(config, "connect", "POST", f"/v2/sandboxes/{_segment(sandbox_id)}/connect", sandbox_id, payload)


def list_sandboxes(
    config: ConnectionConfig,
    query: SandboxQuery | None,
    limit: int | None,
    next_token: str | None,
    order: str | None,
) -> Request:
    if order not in (None, "asc", "desc"):
        raise InvalidArgumentException(f"order must be 'asc' or 'desc', got {order!r}")
    params: dict[str, str] = {}
    if query is not None:
        if query.metadata:
            # Encoded twice inside the parameter: the wire has a query string within a query string, of encoded words.
            params["metadata"] = urlencode({quote(key): quote(value) for key, value in query.metadata.items()})
        if query.state:
            params["state"] = ",".join(str(state) for state in query.state)
        if query.started_after is not None:
            params["startedAfter"] = _rfc3339(query.started_after)
        if query.template:
            params["template"] = query.template
    if order is not None:
        params["order"] = order
    if limit:
        params["limit"] = str(limit)
    if next_token:
        params["nextToken"] = next_token
    path = f"/v2/sandboxes?{urlencode(params)}" if params else "/v2/sandboxes"
    return _control(config, "list", "GET", path, parameters=params)


def info(config: ConnectionConfig, sandbox_id: str) -> Request:
    return _control(config, "info", "GET", f"/sandboxes/{_segment(sandbox_id)}", sandbox_id)


def kill(config: ConnectionConfig, sandbox_id: str) -> Request:
    return _control(config, "kill", "DELETE", f"/sandboxes/{_segment(sandbox_id)}", sandbox_id)


def set_timeout(config: ConnectionConfig, sandbox_id: str, timeout: int) -> Request:
    path = f"/sandboxes/{_segment(sandbox_id)}/timeout"
    return _control(config, "set_timeout", "POST", path, sandbox_id, {"timeout": timeout})


def get_metrics(config: ConnectionConfig, sandbox_id: str, start: datetime | None, end: datetime | None) -> Request:
    given = {name: int(moment.timestamp()) for name, moment in (("start", start), ("end", end)) if moment is not None}
    params = {name: str(value) for name, value in given.items()}
    path = f"/sandboxes/{_segment(sandbox_id)}/metrics" + (f"?{urlencode(params)}" if params else "")
    return _control(config, "get_metrics", "GET", path, sandbox_id, parameters=params)


def update_network(config: ConnectionConfig, sandbox_id: str, network: Mapping[str, Any]) -> Request:
    path = f"/sandboxes/{_segment(sandbox_id)}/network"
    return _control(config, "update_network", "PUT", path, sandbox_id, network_update_body(network))


def lease(config: ConnectionConfig, key: str, payload: Mapping[str, Any]) -> Request:
    return _control(config, "lease", "PUT", f"/raybox/leases/{_lease_key(key)}", payload=payload)


def release_lease(config: ConnectionConfig, key: str, sandbox_id: str) -> Request:
    params = {"sandbox_id": sandbox_id}
    path = f"/raybox/leases/{_lease_key(key)}?{urlencode(params)}"
    return _control(config, "release_lease", "DELETE", path, parameters=params)


def heartbeat(config: ConnectionConfig, process_id: str) -> Request:
    return _control(config, "heartbeat", "POST", "/raybox/leases/heartbeat", payload={"owner": process_id})


def _lease_key(key: str) -> str:
    if not isinstance(key, str) or re.fullmatch(r"[A-Za-z0-9._:~@=+-]{1,255}", key) is None or not key.strip("."):
        raise InvalidArgumentException(
            f"the key of a lease must be 1 to 255 letters, digits and characters of '._:~@=+-', got {key!r}"
        )
    return quote(key, safe="")


def _control(
    config: ConnectionConfig,
    operation: Operation,
    method: str,
    path: str,
    sandbox_id: str | None = None,
    payload: Mapping[str, Any] | None = None,
    extra: tuple[tuple[str, str], ...] = (),
    parameters: Mapping[str, str] | None = None,
) -> Request:
    if not config.api_key and not config.over_ray:
        raise AuthenticationException(
            "no API key: set RAYBOX_API_KEY (or E2B_API_KEY) in the environment, or pass api_key=..."
        )
    headers = {"User-Agent": USER_AGENT, **config.headers}
    if config.api_key:
        headers["X-API-KEY"] = config.api_key
    if payload is not None:
        headers["Content-Type"] = "application/json"
    return Request(
        operation=operation,
        sandbox_id=sandbox_id,
        payload=payload if payload is not None else parameters,
        method=method,
        url=config.api_url + path,
        headers=(*headers.items(), *extra),
        body=_json(payload) if payload is not None else b"",
        connect_s=config.request_timeout,
        total_s=config.request_timeout,
        retries=config.retries,
        connect_retries=config.connect_retries,
        proxy=config.proxy,
        logger=config.logger,
    )


def control_stream(
    config: ConnectionConfig, operation: Operation, path: str, body: AsyncIterable[bytes], idle_s: float
) -> Request:
    """A POST whose body and answer are lines of JSON, both for as long as they go on."""
    request = _control(config, operation, "POST", path, extra=(("Content-Type", "application/x-ndjson"),))
    return request._replace(body=body, total_s=None, idle_s=idle_s, retries=0)


# --- data plane ------------------------------------------------------------------------------------------------------


def address(
    config: ConnectionConfig,
    sandbox_id: str,
    domain: str | None,
    envd_token: str | None,
    traffic_token: str | None,
) -> Address:
    common = [("User-Agent", USER_AGENT), ("E2b-Sandbox-Id", sandbox_id)]
    if envd_token:
        common.append(("X-Access-Token", envd_token))
    if traffic_token:
        common.append(("E2B-Traffic-Access-Token", traffic_token))
    return Address(
        sandbox_id,
        config.sandbox_base_url(sandbox_id, INTERPRETER_PORT, domain),
        (*common, ("E2b-Sandbox-Port", str(INTERPRETER_PORT)), ("Content-Type", "application/json")),
        config.sandbox_base_url(sandbox_id, ENVD_PORT, domain),
        (*common, ("E2b-Sandbox-Port", str(ENVD_PORT))),
    )


def execute(
    config: ConnectionConfig,
    to: Address,
    code: str,
    language: str | None,
    context: Context | str | None,
    envs: Mapping[str, str] | None,
    timeout: float | None,
    request_timeout: float | None,
    execution_id: str | None = None,
    detach: bool = False,
    from_event: int = 0,
) -> Request:
    if detach and execution_id is None:
        raise InvalidArgumentException("detach needs an execution_id: nobody could come back for the execution")
    extra: list[tuple[str, str]] = []
    if execution_id is not None:
        extra.append(("X-Raybox-Execution-Id", _execution_id(execution_id)))
        extra.append(("X-Raybox-On-Disconnect", "continue" if detach else "wait"))
    if from_event:
        extra.append(("X-Raybox-From-Event", str(from_event)))
    if language and context:
        raise InvalidArgumentException("language and context exclude each other: a context has its language")
    return _interpreter(
        config,
        to,
        "execute",
        "POST",
        "/execute",
        {
            "code": code,
            "context_id": context_id(context) or None,
            "language": language,
            "env_vars": envs,
        },
        connect_s=seconds(request_timeout, config.request_timeout, "request_timeout"),
        total_s=seconds(timeout, DEFAULT_EXECUTION_TIMEOUT_S, "timeout"),
        extra=tuple(extra),
    )


def attach_execution(
    config: ConnectionConfig,
    to: Address,
    execution_id: str,
    from_event: int,
    timeout: float | None,
    request_timeout: float | None,
) -> Request:
    if isinstance(from_event, bool) or not isinstance(from_event, int) or from_event < 0:
        raise InvalidArgumentException(f"from_event must be the number of an event, 0 or above, got {from_event!r}")
    return _interpreter(
        config,
        to,
        "attach_execution",
        "GET",
        f"/executions/{_execution_id(execution_id)}/events?from={from_event}",
        None,
        connect_s=seconds(request_timeout, config.request_timeout, "request_timeout"),
        total_s=seconds(timeout, DEFAULT_EXECUTION_TIMEOUT_S, "timeout"),
    )


def interrupt_execution(config: ConnectionConfig, to: Address, execution_id: str, limit_s: float | None) -> Request:
    path = f"/executions/{_execution_id(execution_id)}/interrupt"
    return _interpreter(config, to, "interrupt_execution", "POST", path, None, limit_s, limit_s)


def _execution_id(execution_id: str) -> str:
    if not isinstance(execution_id, str) or re.fullmatch(r"[A-Za-z0-9_-]{1,64}", execution_id) is None:
        raise InvalidArgumentException(
            f"execution_id must be 1 to 64 letters, digits, underscores or hyphens, got {execution_id!r}"
        )
    return execution_id


def create_context(
    config: ConnectionConfig, to: Address, cwd: str | None, language: str | None, request_timeout: float | None
) -> Request:
    payload = {name: value for name, value in (("language", language), ("cwd", cwd)) if value}
    limit_s = seconds(request_timeout, config.request_timeout, "request_timeout")
    return _interpreter(config, to, "create_context", "POST", "/contexts", payload, limit_s, limit_s)


def list_contexts(config: ConnectionConfig, to: Address) -> Request:
    limit_s = config.request_timeout
    return _interpreter(config, to, "list_contexts", "GET", "/contexts", None, limit_s, limit_s)


def restart_context(config: ConnectionConfig, to: Address, context: Context | str) -> Request:
    path, limit_s = f"/contexts/{_segment(context_id(context))}/restart", config.request_timeout
    return _interpreter(config, to, "restart_context", "POST", path, None, limit_s, limit_s)


def remove_context(config: ConnectionConfig, to: Address, context: Context | str) -> Request:
    path, limit_s = f"/contexts/{_segment(context_id(context))}", config.request_timeout
    return _interpreter(config, to, "remove_context", "DELETE", path, None, limit_s, limit_s)


def health(config: ConnectionConfig, to: Address, limit_s: float | None) -> Request:
    return Request(
        "health",
        to.sandbox_id,
        None,
        "GET",
        f"{to.envd_url}/health",
        to.envd_headers,
        b"",
        limit_s,
        limit_s,
        connect_retries=config.connect_retries,
        proxy=config.proxy,
        logger=config.logger,
    )


def _interpreter(
    config: ConnectionConfig,
    to: Address,
    operation: Operation,
    method: str,
    path: str,
    payload: Mapping[str, Any] | None,
    connect_s: float | None,
    total_s: float | None,
    extra: tuple[tuple[str, str], ...] = (),
) -> Request:
    return Request(
        operation,
        to.sandbox_id,
        payload,
        method,
        to.interpreter_url + path,
        to.interpreter_headers + extra,
        _json(payload) if payload is not None else b"",
        connect_s,
        total_s,
        connect_retries=config.connect_retries,
        proxy=config.proxy,
        logger=config.logger,
    )


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Raises InvalidArgumentException for what no header can hold."""
    for name, value in headers:
        # What is split in two by a line break would be two headers; keys and tokens come from files with such ends.
        if not all(text.isascii() and text.isprintable() for text in (name, value)):
            raise InvalidArgumentException(f"the header {name!r} holds a character that no header can hold")


def _json(payload: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentException(f"an argument cannot be written as JSON: {error}") from error


def _segment(text: str) -> str:
    """One path segment of a URL; never empty, as the path would then name something else."""
    if not isinstance(text, str) or not text:
        raise InvalidArgumentException(f"expected an id, got {text!r}")
    return quote(text, safe="")


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone().isoformat()


# --- parts of `create` -----------------------------------------------------------------------------------------------


def _lifecycle(lifecycle: Mapping[str, Any] | None) -> dict[str, Any]:
    if not lifecycle:
        return {}
    choice = lifecycle.get("on_timeout")
    choice = dict(choice) if isinstance(choice, Mapping) else {"action": choice}
    action, mode, keep_memory = choice.get("action"), choice.get("mode"), choice.get("keep_memory")
    if action not in (None, "pause", "kill") or (action is None and len(choice) > 1):
        raise InvalidArgumentException(f"lifecycle: on_timeout must be 'pause' or 'kill', got {action!r}")
    if mode not in (None, "full", "filesystem"):
        raise InvalidArgumentException(f"lifecycle: mode must be 'full' or 'filesystem', got {mode!r}")
    if mode is not None and keep_memory is not None:
        raise InvalidArgumentException("lifecycle: mode and keep_memory say the same; give one of them")
    if action != "pause" and len(choice) > 1:
        raise InvalidArgumentException("lifecycle: mode is for on_timeout 'pause' only")
    memory = mode == "full" if mode is not None else keep_memory
    auto_resume = lifecycle.get("auto_resume")
    if auto_resume and action != "pause":
        raise InvalidArgumentException("lifecycle: auto_resume needs on_timeout 'pause'")
    if auto_resume and memory is False:
        raise InvalidArgumentException("lifecycle: auto_resume needs the memory, which mode 'filesystem' drops")
    body: dict[str, Any] = {}
    if action is not None:
        body["autoPause"] = action == "pause"
    if memory is not None:
        body["autoPauseMemory"] = memory
    if auto_resume is not None:
        body["autoResume"] = {"enabled": auto_resume}
    return body
