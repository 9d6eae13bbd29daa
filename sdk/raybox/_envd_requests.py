"""What requests to the in-sandbox agent have in common: where they go, who asks, how long they may take. No I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from ._config import ConnectionConfig, seconds
from ._connect import STREAM_TYPE, UNARY_TYPE, encode
from ._errors import InvalidArgumentException
from ._requests import Address, Operation, Request

#: How often the server is to say that a stream lives, in seconds: below what proxies allow an idle connection.
KEEPALIVE_INTERVAL_S = 50
#: The server ends a stream at its deadline and knows best what became of it; this is how long it may take to say so.
DEADLINE_GRACE_S = 1.0


def call(
    config: ConnectionConfig,
    to: Address,
    operation: Operation,
    method: str,
    message: Mapping[str, Any],
    request_timeout: float | None,
    user: str | None = None,
) -> Request:
    """A unary call; `method` is "package.Service/Method"."""
    limit_s = seconds(request_timeout, config.request_timeout, "request_timeout")
    headers = [*to.envd_headers, ("Content-Type", UNARY_TYPE), ("Connect-Protocol-Version", "1"), *as_user(user)]
    if limit_s is not None:
        headers.append(("Connect-Timeout-Ms", milliseconds(limit_s)))
    return Request(
        operation,
        to.sandbox_id,
        message,
        "POST",
        f"{to.envd_url}/{method}",
        tuple(headers),
        _json(message).encode(),
        limit_s,
        limit_s,
        connect_retries=config.connect_retries,
        proxy=config.proxy,
        logger=config.logger,
    )


def stream(
    config: ConnectionConfig,
    to: Address,
    operation: Operation,
    method: str,
    message: Mapping[str, Any],
    timeout: float | None,
    request_timeout: float | None,
    user: str | None = None,
) -> Request:
    """A call that is answered by a stream, which lasts `timeout` seconds at most; None and 0: for ever."""
    total_s = seconds(timeout, None, "timeout")
    headers = [
        *to.envd_headers,
        ("Content-Type", STREAM_TYPE),
        ("Connect-Protocol-Version", "1"),
        ("Keepalive-Ping-Interval", str(KEEPALIVE_INTERVAL_S)),
        *as_user(user),
    ]
    if total_s is not None:
        headers.append(("Connect-Timeout-Ms", milliseconds(total_s)))
    _json(message)
    return Request(
        operation,
        to.sandbox_id,
        message,
        "POST",
        f"{to.envd_url}/{method}",
        tuple(headers),
        encode(message),
        seconds(request_timeout, config.request_timeout, "request_timeout"),
        None if total_s is None else total_s + DEADLINE_GRACE_S,
        connect_retries=config.connect_retries,
        proxy=config.proxy,
        logger=config.logger,
    )


def as_user(user: str | None) -> list[tuple[str, str]]:
    """Headers that make a call the one of a user of the sandbox; none for the default one."""
    if user is None:
        return []
    if not isinstance(user, str) or ":" in user:
        raise InvalidArgumentException(f"expected the name of a user, got {user!r}")
    return [("Authorization", "Basic " + base64.b64encode(f"{user}:".encode()).decode("ascii"))]


def milliseconds(value_s: float) -> str:
    """As the protocol's timeout header has them: an integer above zero, of ten digits at most."""
    return str(min(max(round(value_s * 1000), 1), 9_999_999_999))


def path_of(path: object) -> str:
    """A path in the sandbox as calls give it: text without a zero byte."""
    if not isinstance(path, str) or "\0" in path:
        raise InvalidArgumentException(f"expected a path, got {path!r}")
    return path


def _json(message: Mapping[str, Any]) -> str:
    try:
        return json.dumps(message, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentException(f"an argument cannot be written as JSON: {error}") from error
