"""How many free sandboxes are kept warm, and on which nodes. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from raybox_actors.config import Placement


@dataclass(frozen=True, slots=True)
class WarmTarget:
    """Of the pool's template: so many over all nodes, and on every node so many at least, if it has them free."""

    total: int = 0
    per_node: int = 0


@dataclass(frozen=True, slots=True)
class Warmth:
    """A node: how many slots it has, how many of them are taken, warm or about to be, and idle."""

    node_id: str
    slots: int
    taken: int
    ready: int
    idle: int


def lacking(target: WarmTarget, placement: Placement, nodes: Sequence[Warmth]) -> dict[str, int]:
    """How many more each node is to prepare. What is beyond the least of each node goes to where the smallest part of
    the slots is warm (`spread`), or where most are taken (`pack`)."""
    given = {node.node_id: min(node.idle, max(0, target.per_node - node.ready)) for node in nodes}
    missing = target.total - sum(node.ready for node in nodes) - sum(given.values())
    if missing > 0:

        def rank(node: Warmth) -> float:
            return (node.ready + given[node.node_id]) / node.slots if placement == "spread" else -node.taken

        heap = [(rank(node), number, node) for number, node in enumerate(nodes) if given[node.node_id] < node.idle]
        heapq.heapify(heap)
        while heap and missing:
            _, number, node = heapq.heappop(heap)
            given[node.node_id] += 1
            missing -= 1
            if given[node.node_id] < node.idle:
                heapq.heappush(heap, (rank(node), number, node))
    return {node_id: count for node_id, count in given.items() if count}
