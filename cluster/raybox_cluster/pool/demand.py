"""How many slots an elastic pool wants, and what it asks Ray's autoscaler for. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from raybox_cluster.pool.placement import RayNode, Resources, Selector


@dataclass(slots=True)
class Peak:
    """The highest of the values that held at any time within the last `memory_s` seconds."""

    memory_s: float
    #: Falling values, the newest last, each with the time until which it is known to have held.
    _held: deque[tuple[int, float]] = field(default_factory=deque, init=False)

    def note(self, value: int, now_s: float) -> int:
        """`value` holds from now on; what held until now did so until now. Returns the peak."""
        if self._held:
            self._held[-1] = (self._held[-1][0], now_s)
        while self._held and self._held[-1][0] <= value:
            self._held.pop()
        self._held.append((value, now_s))
        while len(self._held) > 1 and self._held[0][1] + self.memory_s <= now_s:
            self._held.popleft()
        return self._held[0][0]

    @property
    def falls_at_s(self) -> float:
        """When the peak becomes less if nothing changes; infinite: not by time alone."""
        return self._held[0][1] + self.memory_s if len(self._held) > 1 else math.inf


@dataclass(frozen=True, slots=True)
class Request:
    """Arguments of Ray's request_resources. Both empty: nothing is wanted."""

    bundles: list[dict[str, float]] = field(default_factory=list)
    selectors: list[dict[str, str]] = field(default_factory=list)


def request(bundle: Resources, selector: Selector, unmet: int, nodes: Sequence[RayNode]) -> Request:
    """So that `unmet` more sandboxes find room.

    Ray takes it as what the cluster as a whole must be able to hold, whatever runs there. So what is in use on each
    node is asked for as well, whoever uses it: the rest must then be found beside it.
    """
    if not unmet or not bundle:
        return Request()
    used = [used for node in nodes if node.drain_deadline_s is None and (used := node.used)]
    wanted = dict(selector)
    return Request([*used, *([dict(bundle)] * unmet)], [*({} for _ in used), *([wanted] * unmet)])
