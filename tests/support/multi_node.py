"""A real Ray cluster of several nodes on this machine, in this process: raylets that can be added and killed.

Whoever uses it connects with `connected`, or with processes of their own: Ray knows one connection in a process, so it
cannot be used beside `ray_cluster` (tests/conftest.py puts the tests of that one last).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.ray_cluster import LEAN
from tests.support.wait import wait_until

#: A dead raylet is noticed within two seconds, not fifteen.
NOTICE_SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}
OBJECT_STORE_BYTES = 80 * 2**20


class MultiNode:
    """Made by `multi_node`. Nodes are named by Ray's ids; the head hosts nothing, unless it is given CPUs."""

    def __init__(self, head_cpus: float = 0) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True,
            shutdown_at_exit=True,
            head_node_args={
                "num_cpus": head_cpus,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            },
        )
        self._nodes: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """Of the GCS, HOST:PORT."""
        return str(self._cluster.address)

    @property
    def head_id(self) -> str:
        return str(self._cluster.head_node.node_id)

    @property
    def node_ids(self) -> list[str]:
        """Of the living nodes besides the head, in the order of their coming."""
        return list(self._nodes)

    def add(self, cpus: float = 1, memory_bytes: int = 2**30, labels: dict[str, str] | None = None) -> str:
        """One more node; returns its id when it is known to the cluster. About three seconds."""
        node = self._cluster.add_node(
            num_cpus=cpus, memory=memory_bytes, labels=labels or {}, object_store_memory=OBJECT_STORE_BYTES
        )
        self._nodes[node.node_id] = node
        return str(node.node_id)

    def kill(self, node_id: str) -> None:
        """SIGKILL to the raylet and its agents: a node that is gone from one moment to the next."""
        self._cluster.remove_node(self._nodes.pop(node_id), allow_graceful=False)

    def raylet_pid(self, node_id: str) -> int:
        from ray._private.ray_constants import PROCESS_TYPE_RAYLET

        return int(self._nodes[node_id].all_processes[PROCESS_TYPE_RAYLET][0].process.pid)

    def stop(self) -> None:
        self._cluster.shutdown()


@contextlib.contextmanager
def multi_node(head_cpus: float = 0, environment: dict[str, str] | None = None) -> Iterator[MultiNode]:
    """A cluster of a head alone; `environment` is for its processes, and those that this one starts meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (LEAN | NOTICE_SOON | (environment or {})).items():
            patch.setenv(name, value)
        cluster = MultiNode(head_cpus)
        try:
            yield cluster
        finally:
            cluster.stop()


@contextlib.contextmanager
def connected(cluster: MultiNode) -> Iterator[None]:
    """This process is a driver of the cluster, on its head."""
    import ray

    ray.init(address=cluster.address, namespace="raybox", log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def wait_until_dead(node_id: str, timeout_s: float = 30.0) -> None:
    """Return when the cluster that this process is connected to knows that the node is dead."""
    import ray

    wait_until(lambda: not any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes()), timeout_s)
