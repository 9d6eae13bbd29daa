"""Errors to HTTP answers. Total over raybox_actors.errors: a test enumerates the classes.

Three shapes (contract 2.1, 3.1, 4.1): the control plane and port 49983 answer JSON, port 49999 plain text, and a
sandbox that is not there is one and the same 502 on every port. All carry kind, retryable and should_mask_sample: JSON
bodies as fields, plain text as `X-Raybox-*` headers.
"""

from __future__ import annotations

import math
from dataclasses import asdict

from starlette.responses import Response

from raybox_actors import errors
from raybox_actors.agent.errors import AgentCode, AgentError
from raybox_actors.errors import GangFailed, InternalError, NoCapacity, NotFound, RayboxError, SandboxLost

from .asgi import json_response, text_response
from .signatures import AccessDenied

#: Status on the control plane. A class that is not listed answers like its nearest listed ancestor.
STATUS: dict[type[RayboxError], int] = {
    errors.RayboxError: 500,
    errors.BadRequest: 400,
    errors.Conflict: 409,
    errors.Unauthenticated: 401,
    errors.NotFound: 404,
    errors.ExecutionForgotten: 410,
    errors.SandboxLost: 404,  # gone is not found; `cause` says more
    errors.NoCapacity: 503,
    errors.GangFailed: 503,  # of most; `status_of` asks its cause
    errors.SlotTaken: 503,
    errors.LimitReached: 429,
    errors.InternalError: 500,
    errors.NodeFallsShort: 500,
}

#: Retry-After of capacity errors that do not say it themselves.
DEFAULT_RETRY_AFTER_S = 1.0


class TemplateNotFound(NotFound):
    """The wording is the reference's, which users search for."""

    def __init__(self, name: str) -> None:
        super().__init__("template", name)
        Exception.__init__(self, name)
        self.message = f"template '{name}' not found"


class NotAvailable(RayboxError):
    """Part of the protocol, but not of this version. HTTP 501."""

    kind = "bad_request"
    should_mask_sample = False


class Forbidden(RayboxError):
    """The traffic token is missing or wrong, or the API key does not reach so far. HTTP 403."""

    kind = "auth"


STATUS |= {TemplateNotFound: 404, NotAvailable: 501, Forbidden: 403, AccessDenied: 401, AgentError: 500}

#: What the agent says over plain HTTP (contract 4.3).
AGENT_STATUS: dict[AgentCode, int] = {
    "invalid_argument": 400,
    "is_directory": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "resource_exhausted": 429,
    "internal": 500,
    "unimplemented": 501,
    "port_closed": 502,
    "unavailable": 503,
    "deadline_exceeded": 504,
    "no_space": 507,
}


def status_of(error: RayboxError) -> int:
    if isinstance(error, AgentError):
        return AGENT_STATUS[error.code]
    if isinstance(error, GangFailed):
        return status_of(error.cause)
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def _traits(error: RayboxError) -> dict[str, object]:
    """What a program may want to know of an error, besides its status."""
    traits: dict[str, object] = {
        "kind": error.kind,
        "retryable": error.retryable,
        "should_mask_sample": error.should_mask_sample,
    }
    if isinstance(error, SandboxLost):
        traits["cause"] = error.cause
    if error.kind == "capacity":
        traits["retry_after_s"] = _retry_after_s(error)
    if isinstance(error, GangFailed):
        traits["report"] = [asdict(one) for one in error.report]
    return traits


def _retry_after_s(error: RayboxError) -> float:
    if isinstance(error, GangFailed):
        return _retry_after_s(error.cause)
    wanted = error.retry_after_s if isinstance(error, NoCapacity) else DEFAULT_RETRY_AFTER_S
    return wanted if math.isfinite(wanted) and wanted >= 0 else DEFAULT_RETRY_AFTER_S


def _headers(error: RayboxError) -> dict[str, str]:
    """Python's SDK retries 429 and 503 by itself, creates included, unless told not to; a full pool needs no storm."""
    if error.kind == "capacity":
        return {"retry-after": str(max(1, math.ceil(_retry_after_s(error)))), "should-retry": "false"}
    return {"should-retry": "false"} if error.kind == "limit" else {}


def sandbox_id_of(error: RayboxError) -> str | None:
    if isinstance(error, SandboxLost):
        return error.sandbox_id
    return error.name if isinstance(error, NotFound) and error.what == "sandbox" else None


def sandbox_is_gone(error: RayboxError) -> bool:
    return isinstance(error, SandboxLost) or (isinstance(error, NotFound) and error.what == "sandbox")


def control_response(error: RayboxError) -> Response:
    status = status_of(error)
    sandbox_id = sandbox_id_of(error)
    body: dict[str, object] = {"code": status, "message": str(error), **_traits(error)}
    if sandbox_id is not None:
        body["sandboxId"] = sandbox_id
    return json_response(status, body, _headers(error))


def gone_response(sandbox_id: str, error: RayboxError) -> Response:
    """Contract 4.1, the same on every port; clients look for the words `was not found`."""
    body = {"sandboxId": sandbox_id, "message": "The sandbox was not found", "code": 502}
    return json_response(502, body | _traits(error))


def gateway_response(sandbox_id: str, error: RayboxError) -> Response:
    """Data plane, JSON: every port but 49999, and what the gateway decides before looking at the port."""
    if sandbox_is_gone(error):
        return gone_response(sandbox_id, error)
    status = status_of(error)
    body = {"sandboxId": sandbox_id, "message": str(error), "code": status}
    return json_response(status, body | _traits(error), _headers(error))


def interpreter_response(sandbox_id: str, error: RayboxError) -> Response:
    """Data plane, port 49999: plain text, which the clients put into their exceptions as it is."""
    if sandbox_is_gone(error):
        return gone_response(sandbox_id, error)
    if isinstance(error, Forbidden):
        return gateway_response(sandbox_id, error)
    text = f"{error.what.capitalize()} {error.name} not found" if type(error) is NotFound else str(error)
    traits = {
        f"x-raybox-{name.replace('_', '-')}": str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in _traits(error).items()
    }
    return text_response(status_of(error), text, traits | _headers(error))


def denied_response(error: AccessDenied) -> Response:
    """Contract 4.3: exactly these two keys."""
    return json_response(401, {"code": 401, "message": error.message})


def envd_response(error: RayboxError) -> Response:
    """Data plane, port 49983, of a sandbox that is there."""
    if isinstance(error, AccessDenied):
        return denied_response(error)
    status = status_of(error)
    return json_response(status, {"code": status, "message": str(error), **_traits(error)}, _headers(error))


def port_closed_response(sandbox_id: str, port: int) -> Response:
    """Contract 4.1; clients look for the words `port is not open`."""
    return json_response(
        502,
        {
            "sandboxId": sandbox_id,
            "message": "The sandbox is running but port is not open",
            "port": port,
            "code": 502,
            "kind": "bad_request",
            "retryable": False,
            "should_mask_sample": False,
        },
    )


def framework_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """What the framework decided (no such route, wrong method) in the contract's shape."""
    server = status >= 500
    body = {
        "code": status,
        "message": message,
        "kind": "internal" if server else "not_found" if status == 404 else "bad_request",
        "retryable": server,
        "should_mask_sample": server,
    }
    return json_response(status, body, headers)


def internal() -> InternalError:
    """For what nobody expected. The details are in the log: a caller must not see them."""
    return InternalError("internal error; the gateway's log has the details")
