"""What Ray says of its nodes, and what its autoscaler is told. Everything here blocks: call it in a thread.

Ray has no public way to ask for what is free on each node, or which nodes are draining; its own Serve reads the same.
"""

from __future__ import annotations

import logging
from typing import Final

import ray
from ray._private import state as ray_state
from ray.autoscaler.sdk import request_resources
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from raybox_cluster.pool.demand import Request
from raybox_cluster.pool.placement import RayNode

logger = logging.getLogger(__name__)
#: Set in Ray's control store while the cluster holds a request of the pool's.
_MARK: Final = "raybox-demand:{}"


def look() -> list[RayNode]:
    """The living nodes."""
    free = ray_state.available_resources_per_node()
    draining = ray_state.state.get_draining_nodes()
    return [
        RayNode(
            node["NodeID"],
            node["Labels"],
            node["Resources"],
            free.get(node["NodeID"], {}),
            draining[node["NodeID"]] / 1000 if node["NodeID"] in draining else None,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def report_demand(pool: str, request: Request) -> None:
    """Replace what the cluster was last asked for, by whomever: Ray keeps one request. An empty one only takes back
    what this pool asked for."""
    mark = _MARK.format(pool)
    if request.bundles:
        _internal_kv_put(mark, b"1")
        request_resources(bundles=request.bundles, bundle_label_selectors=request.selectors)
        logger.info("asked Ray's autoscaler for %d bundles", len(request.bundles))
    elif _internal_kv_get(mark) is not None:
        request_resources(bundles=[])
        _internal_kv_del(mark)
