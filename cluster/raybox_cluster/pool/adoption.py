"""A pool that runs already: what it was started with, and how its settings may change under its sandboxes."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any, Final, cast

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from raybox_actors.config import PoolConfig, manager_name
from raybox_actors.errors import InternalError
from raybox_cluster.pool.calls import answer_sync, find, names

#: What the pool manager alone reads of a PoolConfig. Its state is soft, so that another manager, told otherwise, takes
#: over whatever runs; all other fields are in the sandboxes and their actors already.
CHANGEABLE: Final = frozenset(
    {
        *("sandboxes", "warm", "admission_wait_s", "min_sandboxes", "idle_s", "placement", "node_labels"),
        *("cpu_request", "memory_request_mib", "drain_grace_s", "warm_per_node"),
    }
)
ANSWER_LIMIT_S: Final = 30.0
RETRY_PAUSE_S: Final = 0.1


def differences(running: PoolConfig, wanted: PoolConfig) -> dict[str, tuple[Any, Any]]:
    """Names of the fields that differ, each with what runs and what is wanted. The secret is nobody's wish. Pure."""
    both = {one.name: (getattr(running, one.name), getattr(wanted, one.name)) for one in fields(PoolConfig)}
    return {name: (has, wants) for name, (has, wants) in both.items() if has != wants and name != "secret"}


def running_config(name: str) -> PoolConfig | None:
    """What the manager of the pool called so was started with; None if there is none. Blocks.

    Raises InternalError if there is one that does not answer.
    """
    deadline_s = time.monotonic() + ANSWER_LIMIT_S
    while True:
        try:
            manager = find(manager_name(PoolConfig(name=name)))
            return cast(PoolConfig, answer_sync(manager.config.remote(), ANSWER_LIMIT_S))
        except (ValueError, ActorDiedError):
            return None
        except ActorUnavailableError:  # it is being restarted
            if time.monotonic() > deadline_s:
                raise InternalError(f"the manager of pool {name} does not answer") from None
        except TimeoutError:
            raise InternalError(f"the manager of pool {name} does not answer") from None
        time.sleep(RETRY_PAUSE_S)


def end_manager(config: PoolConfig, *, and_fronts: bool) -> None:
    """End the pool's manager, and what callers over Ray reach it through, but no sandbox; return when their names are
    free for the next. Idempotent. Blocks."""
    deadline_s = time.monotonic() + ANSWER_LIMIT_S
    fronts = [name for name in names(config) if name.startswith(f"{config.name}-front-")]
    ending = {manager_name(config), *(fronts if and_fronts else ())}
    while ending := {name for name in ending if _kill(name)}:
        if time.monotonic() > deadline_s:
            raise InternalError(f"these actors do not end: {', '.join(sorted(ending))}")
        time.sleep(RETRY_PAUSE_S)


def _kill(name: str) -> bool:
    """Whether it was there."""
    try:
        ray.kill(find(name))
    except ValueError:
        return False
    return True
