"""What both colours of a lease share: whose it is, until when, and what is asked of the pool. No I/O."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from . import _requests
from ._config import ConnectionConfig
from ._errors import InvalidArgumentException
from ._heartbeats import HEARTBEATS
from ._requests import Request

LeaseOwner = Literal["job", "actor", "process", "none"]

DEFAULT_TTL_S = 600.0


class LeaseBase:
    """Holds no connection, so it can be pickled and shared by threads. A copy in another process is no owner: that
    becomes one by leasing the key itself.

    key: as it was leased. created: this call made the sandbox; otherwise it has the state of earlier ones. expires_at:
    when it ends if it is not used before, by this process's last word of it.
    """

    def __init__(self, config: ConnectionConfig, key: str, ttl_s: float, created: bool, expires_at: datetime) -> None:
        self._config = config
        self.key = key
        self.created = created
        self.expires_at = expires_at
        self._ttl_s = ttl_s

    def _renewal(self, ttl_s: float | None) -> int:
        """Whole seconds, as the protocol has them."""
        self._ttl_s = self._ttl_s if ttl_s is None else checked_ttl(ttl_s)
        return math.ceil(self._ttl_s)

    def _renewed(self, timeout: int) -> None:
        self.expires_at = datetime.now(UTC) + timedelta(seconds=timeout)


def lease_request(
    config: ConnectionConfig, key: str, ttl_s: float, owner: LeaseOwner | None, recreate: bool, create: Request
) -> Request:
    """create: the request that would make the sandbox by itself."""
    assert create.payload is not None
    if "timeout" in create.payload or any(name == "Idempotency-Key" for name, _ in create.headers):
        raise InvalidArgumentException("lease: ttl_s says how long it lives, and key is its idempotency_key")
    payload = {"ttl_s": checked_ttl(ttl_s), "owner": owner_of(owner, config.over_ray), "recreate": recreate}
    return _requests.lease(config, key, {**payload, "create": create.payload})


def checked_ttl(ttl_s: float) -> float:
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s < math.inf:
        raise InvalidArgumentException(f"ttl_s must be a number of seconds above 0, got {ttl_s!r}")
    return float(ttl_s)


def owner_of(owner: LeaseOwner | None, over_ray: bool) -> dict[str, str]:
    """As the pool is told: what Ray calls it, or the name that this process has in its heartbeats."""
    if owner is None:
        owner = "job" if over_ray else "process"
    if owner not in get_args(LeaseOwner):
        raise InvalidArgumentException(f"owner must be one of {', '.join(get_args(LeaseOwner))}, got {owner!r}")
    if owner == "none":
        return {"kind": "none"}
    if not over_ray:
        if owner != "process":
            raise InvalidArgumentException(
                f"owner={owner!r} is for a pool over Ray; over HTTP it is 'process' or 'none'"
            )
        return {"kind": "heartbeat", "id": HEARTBEATS.process_id}
    context: Any = sys.modules["ray"].get_runtime_context()
    ids = {"job": context.get_job_id, "actor": context.get_actor_id, "process": context.get_worker_id}
    ray_id = ids[owner]()
    if ray_id is None:
        raise InvalidArgumentException("owner='actor': this code does not run in an actor")
    return {"kind": owner, "id": ray_id}


def keep_alive(config: ConnectionConfig, request: Request, ttl_s: float) -> None:
    """Begin to send heartbeats, if the lease was made for them."""
    assert request.payload is not None
    if request.payload["owner"]["kind"] == "heartbeat":
        HEARTBEATS.add(config, ttl_s)
