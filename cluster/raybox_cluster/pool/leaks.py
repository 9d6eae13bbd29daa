"""What the node agents found left of dead sandboxes, and sandboxes left of dead owners: for the pool's status, and as
metrics of Ray's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raybox_actors.values import PoolStatus

PREFIX = "leaked_"


class LeakCounts:
    """By node and kind, since each agent's start; zeros, if all is well."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._counts: dict[str, dict[str, int]] = {}
        self._gauge: Any = None
        self._orphans: Any = None

    def record(self, node_id: str, ping: dict[str, int | bool]) -> None:
        """An agent's answer to `ping`."""
        counts = {name.removeprefix(PREFIX): int(value) for name, value in ping.items() if name.startswith(PREFIX)}
        self._counts[node_id] = counts
        if self._gauge is None:
            from ray.util.metrics import Gauge

            self._gauge = Gauge(
                "raybox_leaks",
                description="Left of dead sandboxes and swept, since the node agent's start.",
                tag_keys=("pool", "node", "kind"),
            )
        for kind, count in counts.items():
            self._gauge.set(count, {"pool": self._pool, "node": node_id[:12], "kind": kind})

    def record_orphans(self, count: int) -> None:
        """Leased sandboxes whose owners are dead, at this moment."""
        if self._orphans is None:
            from ray.util.metrics import Gauge

            self._orphans = Gauge(
                "raybox_orphaned_leases",
                description="Leased sandboxes whose owners are dead and that are still to be ended.",
                tag_keys=("pool",),
            )
        self._orphans.set(count, {"pool": self._pool})

    def added_to(self, status: PoolStatus) -> PoolStatus:
        nodes = [replace(node, leaks=dict(self._counts.get(node.node_id, {}))) for node in status.nodes]
        return replace(status, nodes=nodes)
