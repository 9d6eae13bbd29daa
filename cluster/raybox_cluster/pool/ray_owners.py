"""What Ray's control store knows of jobs, actors and processes. The one file that calls Ray's private tables.

The public state API needs the dashboard, which a pool may have none of; these accessors are what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable

import ray
from ray._private.state import state
from ray.core.generated import gcs_pb2

from raybox_actors.values import LeaseOwner
from raybox_cluster.pool.calls import alive_nodes


def look_up(owners: Iterable[LeaseOwner]) -> dict[LeaseOwner, bool | None]:
    """Of each whether it lives; None: there is no record of it. Blocks, for about a millisecond; call it in a thread.

    Raises whatever Ray does when its control store does not answer.
    """
    jobs: dict[str, bool] | None = None
    nodes: set[str] | None = None
    found: dict[LeaseOwner, bool | None] = {}
    for owner in owners:
        match owner.kind:
            case "job":
                if jobs is None:
                    jobs = {job["JobID"]: not job["IsDead"] for job in state.job_table()}
                found[owner] = jobs.get(owner.id)
            case "actor":
                actor = state.actor_table(owner.id)
                found[owner] = actor["State"] != "DEAD" if actor else None
            case "process":
                if nodes is None:
                    nodes = set(alive_nodes())
                found[owner] = _process_lives(owner.id, nodes)
    return found


def _process_lives(worker_id: str, nodes: set[str]) -> bool | None:
    """A driver is one of them, too."""
    told = state._connect_and_get_accessor().get_worker_info(ray.WorkerID(bytes.fromhex(worker_id)))
    if told is None:
        return None
    record = gcs_pb2.WorkerTableData.FromString(told)  # type: ignore[attr-defined]  # generated, without types
    return bool(record.is_alive) and record.worker_address.node_id.hex() in nodes
