"""Bringing a pool up and down, from a process that is connected to Ray."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.exceptions import ActorUnavailableError

from raybox_actors.config import PoolConfig, manager_name
from raybox_actors.errors import InternalError
from raybox_actors.values import PoolStatus
from raybox_cluster.gateway.auth import ApiKey
from raybox_cluster.pool import placement_groups
from raybox_cluster.pool.actors import ActorClasses, ensure_manager
from raybox_cluster.pool.calls import answer_sync, find, names
from raybox_cluster.pool.cluster_view import report_demand
from raybox_cluster.pool.demand import Request
from raybox_cluster.pool.manager import RETIRE_TIMEOUT_S

#: After so many, whoever waits for a new pool is told rather than kept waiting; a second or two of repeated failures.
PROBLEMS_BORNE: Final = 4


def ensure_pool(
    config: PoolConfig,
    on_progress: Callable[[PoolStatus], None] | None = None,
    *,
    timeout_s: float = 300.0,
    classes: ActorClasses | None = None,
    keys: tuple[ApiKey, ...] = (),
) -> PoolStatus:
    """Start the pool, or join the one of this name that runs; return when its warm sandboxes are.

    on_progress: called with every status read meanwhile. keys: as for ensure_manager. Raises BadRequest if a pool of
    this name runs with other settings, InternalError with the latest problems if they repeat themselves or it takes
    longer than timeout_s.
    """
    deadline_s = time.monotonic() + timeout_s
    manager = ensure_manager(config, classes or ActorClasses(), keys)
    problems_before: int | None = None
    status: PoolStatus | None = None
    while True:
        left_s = max(1.0, deadline_s - time.monotonic())
        try:
            if problems_before is None:
                answer_sync(manager.start.remote(config), left_s)
                problems_before, _ = answer_sync(manager.problems.remote(), left_s)
            status = answer_sync(manager.status.remote(), left_s)
            assert isinstance(status, PoolStatus)
            if on_progress is not None:
                on_progress(status)
            if _is_ready(status, config):
                return status
            noted, problems = answer_sync(manager.problems.remote(), left_s)
        except ActorUnavailableError:
            noted, problems = 0, ["the manager is being restarted"]
        except TimeoutError:
            raise InternalError(f"the manager of pool {config.name} did not answer in {timeout_s:.0f} s") from None
        if time.monotonic() > deadline_s or noted - (problems_before or 0) >= PROBLEMS_BORNE:
            latest = "; ".join(dict.fromkeys(problems[-PROBLEMS_BORNE:])) or "no problem was noted"
            raise InternalError(f"the pool does not get ready: {latest}; {status}")
        time.sleep(0.05)


def start_pool(config: PoolConfig, keys: tuple[ApiKey, ...], *, timeout_s: float = 60.0) -> None:
    """Start the pool's manager, or join the one that runs; no wait for nodes or sandboxes. Raises as ensure_pool."""
    try:
        answer_sync(ensure_manager(config, ActorClasses(), keys).start.remote(config), timeout_s)
    except TimeoutError:
        raise InternalError(f"the manager of pool {config.name} did not answer in {timeout_s:.0f} s") from None


def _is_ready(status: PoolStatus, config: PoolConfig) -> bool:
    """An elastic pool is ready when its minimum is: further nodes take minutes, and may never come."""
    least = config.sandboxes if config.min_sandboxes is None else config.min_sandboxes
    taken = sum(status.slots_by_state.get(state, 0) for state in ("starting", "running", "paused"))
    return (least == 0 or bool(status.slots_by_state)) and status.warm >= min(config.warm, least - taken)


def teardown_pool(config: PoolConfig, *, timeout_s: float = 60.0) -> None:
    """End every sandbox and every actor of the pool; return when none of their names is left. Idempotent.

    Works without the manager's help, which is ended first so that it replaces nothing.
    """
    deadline_s = time.monotonic() + timeout_s
    while left := names(config):
        if time.monotonic() > deadline_s:
            raise InternalError(f"these actors did not end in {timeout_s:.0f} s: {', '.join(sorted(left))}")
        handles = {}
        for name in left:
            with contextlib.suppress(ValueError):
                handles[name] = find(name)
        for name in [
            name for name in handles if name == manager_name(config) or name.startswith(f"{config.name}-front-")
        ]:
            ray.kill(handles.pop(name))
        agents = {name: handle for name, handle in handles.items() if name.startswith(f"{config.name}-node-")}
        slots = {name: handle for name, handle in handles.items() if name not in agents}
        _end(slots.values(), "retire")
        if not slots:  # the agents' sweep is of use until the last sandbox is gone
            _end(agents.values(), "stop")
        time.sleep(0.05)
    for gang_id in placement_groups.existing(config):
        placement_groups.remove(config, gang_id)
    report_demand(config.name, Request())


def _end(handles: Any, method: str) -> None:
    """Ask all to end, wait, kill."""
    calls = {getattr(handle, method).remote(): handle for handle in handles}
    if calls:
        ray.wait(list(calls), num_returns=len(calls), timeout=RETIRE_TIMEOUT_S)
    for handle in calls.values():
        ray.kill(handle)
