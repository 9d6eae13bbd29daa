"""Requests and answers of leases as plain values. Pure: no I/O, no clock. Parsers raise BadRequest."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Literal, cast

from raybox_actors import fields as f
from raybox_actors.errors import BadRequest, NotFound
from raybox_actors.values import DEFAULT_TEMPLATE, CreateRequest, Lease, LeaseOwner, SandboxInfo

from .asgi import Headers
from .auth import ApiKey
from .wire import create_of, created_body, timestamp

DEFAULT_TTL_S = 600.0
MAX_OWNER_CHARS = 64

_KEY = re.compile(r"[A-Za-z0-9._:~@=+-]{1,255}")
_OWNER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: How many hex digits Ray's ids have.
_RAY_ID_DIGITS = {"job": 8, "actor": 32, "process": 56}


def check_lease_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise BadRequest("the key of a lease must match [A-Za-z0-9._:~@=+-]{1,255}")
    return key


def parse_lease(
    lease_key: str,
    body: bytes,
    headers: Headers,
    *,
    key: ApiKey,
    max_timeout_s: float,
    max_wait_s: float,
) -> tuple[CreateRequest, bool]:
    """What to make if there is no such lease, and whether to make it in the place of one that was lost, too."""
    fields = f.json_object(body, empty_ok=True)
    ttl_s = f.seconds(fields, "ttl_s", max_timeout_s) or min(DEFAULT_TTL_S, max_timeout_s)
    create = f.mapping(fields, "create")
    if create.get("timeout") is not None:
        raise BadRequest("create.timeout: a lease lives as long as ttl_s says")
    owner = parse_owner(f.mapping(fields, "owner"), lease_key, key)
    # Whole seconds up, as the timeouts of the protocol are: the check of the pool's own limit is the same.
    asked = {"templateID": DEFAULT_TEMPLATE, **create, "timeout": max(1, min(math.ceil(ttl_s), int(max_timeout_s)))}
    without_key = {name: value for name, value in headers.items() if name != b"idempotency-key"}
    request = create_of(asked, without_key, key=key, version=2, max_timeout_s=max_timeout_s, max_wait_s=max_wait_s)
    lease = Lease(lease_key, ttl_s, (owner,))
    request = replace(request, timeout_s=ttl_s, idempotency_key=None, lease=lease)
    return request, f.flag(fields, "recreate", False)


def parse_owner(owner: f.Json, lease_key: str, key: ApiKey) -> LeaseOwner:
    """Names of clients with heartbeats are theirs alone among the clients of one API key. Without one, it is the
    lease's."""
    kind = f.text(owner, "kind", MAX_OWNER_CHARS) or "none"
    owner_id = f.text(owner, "id", MAX_OWNER_CHARS)
    if kind == "none":
        return LeaseOwner("none")
    if kind == "heartbeat":
        return LeaseOwner("heartbeat", f"{key.name}/lease/{lease_key}") if owner_id is None else client(key, owner_id)
    if kind not in _RAY_ID_DIGITS:
        raise BadRequest(f"owner.kind must be one of none, heartbeat, {', '.join(_RAY_ID_DIGITS)}")
    if owner_id is None or not re.fullmatch(rf"[0-9a-f]{{{_RAY_ID_DIGITS[kind]}}}", owner_id):
        raise BadRequest(f"owner.id must be Ray's id of the {kind}: {_RAY_ID_DIGITS[kind]} hex digits")
    return LeaseOwner(cast('Literal["job", "actor", "process"]', kind), owner_id)


def parse_heartbeat(body: bytes, key: ApiKey) -> LeaseOwner:
    owner_id = f.text(f.json_object(body), "owner", MAX_OWNER_CHARS)
    if owner_id is None:
        raise BadRequest("owner is required")
    return client(key, owner_id)


def client(key: ApiKey, owner_id: str) -> LeaseOwner:
    if not _OWNER_ID.fullmatch(owner_id):
        raise BadRequest("the id of an owner must match [A-Za-z0-9_-]{1,64}")
    return LeaseOwner("heartbeat", f"{key.name}/client/{owner_id}")


def leased_body(info: SandboxInfo, *, created: bool) -> f.Json:
    """The answer to who leases: the sandbox as a create gives it, and the lease."""
    return {"sandbox": created_body(info), "created": created, **lease_body(info)}


def lease_body(info: SandboxInfo) -> f.Json:
    assert info.lease is not None
    return {
        "key": info.lease.key,
        "sandboxID": info.sandbox_id,
        "ttl_s": info.lease.ttl_s,
        "expiresAt": timestamp(info.end_at_s),
        "owners": [{"kind": owner.kind, "id": owner.id.rpartition("/")[2]} for owner in info.lease.owners],
    }


def no_such_lease(key: str) -> NotFound:
    return NotFound("lease", key)
