"""Fronts of a pool: made when a caller over Ray first needs one, ended with the agent of their node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final

import ray
from ray.exceptions import RayActorError

from raybox_actors.config import PoolConfig, front_name
from raybox_actors.errors import InternalError
from raybox_actors.off_loop import off_loop
from raybox_cluster.gateway.auth import ApiKey
from raybox_cluster.pool.actors import ensure_front
from raybox_cluster.pool.calls import answer, find

#: Its process has to be started, and imports the gateway.
START_TIMEOUT_S: Final = 60.0
#: The name of one that has just died is in use for a moment.
ATTEMPTS: Final = 5
RETRY_PAUSE_S: Final = 0.2


def node_of_front(caller: str, hosts: Collection[str], own: str) -> str:
    """Where the front of a caller on node `caller` is: there if it hosts sandboxes, else on one that does, always the
    same while they are the same; `own`, the manager's, if there is none. Pure."""
    if caller in hosts or not hosts:
        return caller if caller in hosts else own
    return sorted(hosts)[sum(caller.encode()) % len(hosts)]


class Fronts:
    """Used on one loop."""

    def __init__(self, config: PoolConfig, keys: tuple[ApiKey, ...]) -> None:
        self._config, self._keys = config, keys
        #: By node, those being looked for or made.
        self._making: dict[str, asyncio.Task[str]] = {}

    async def on(self, node_id: str) -> str:
        """The name of the node's front, which answers. Raises InternalError if none can be had."""
        making = self._making.get(node_id)
        if making is None:
            making = self._making[node_id] = asyncio.get_running_loop().create_task(self._make(node_id))
            making.add_done_callback(lambda _: self._making.pop(node_id))
        return await asyncio.shield(making)

    async def end(self, node_id: str) -> None:
        """End the node's front, if there is one."""
        with contextlib.suppress(ValueError):
            ray.kill(await off_loop(find, front_name(self._config, node_id)))

    async def _make(self, node_id: str) -> str:
        error: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                handle = await off_loop(ensure_front, self._config, self._keys, node_id)
                await answer(handle.ping.remote(), START_TIMEOUT_S)
                return front_name(self._config, node_id)
            except (RayActorError, TimeoutError, ValueError) as failure:
                error = failure
            await asyncio.sleep(RETRY_PAUSE_S)
        raise InternalError(f"no front on node {node_id[:12]}: {error}"[:500])
