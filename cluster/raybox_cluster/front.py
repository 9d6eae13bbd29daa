"""Front: the actor through which callers over Ray reach the gateway's application, on the node that they are on.

The application is the one that HTTP reaches, in this process, with RayBackend beneath it; what is asked of it comes as
actor calls of builtins alone (docs/protocol.md, "Over Ray"). Nothing is lost with a front but what is under way in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from raybox_actors.config import PoolConfig
from raybox_actors.pool_watch import LOOK_INTERVAL_S, PoolWatch
from raybox_cluster.front_exchange import Exchanges
from raybox_cluster.gateway.auth import KEYLESS_OWNER, ApiKey, ApiKeys, hash_key, new_key

logger = logging.getLogger(__name__)

SWEEP_S: Final = 5.0


class Front(Exchanges):
    """Plain class of the actor. What callers ask of it are the exchanges, as they are."""

    def __init__(self, config: PoolConfig, keys: tuple[ApiKey, ...]) -> None:
        # Here, because the manager imports this file for the names of the methods, and shall not carry all of this.
        from raybox_cluster.gateway.app import create_app
        from raybox_cluster.pool.backend_ray import RayBackend

        keyless = ApiKey(KEYLESS_OWNER, hash_key(new_key()), admin=True)
        app = create_app(
            RayBackend(config),
            ApiKeys(keys, keyless=keyless),
            max_timeout_s=config.max_timeout_s,
            max_wait_s=config.max_admission_wait_s,
        )
        super().__init__(app)
        self._pool = PoolWatch(config)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._sweep()), loop.create_task(self._watch_pool())]

    async def ping(self) -> int:
        """The actor's pid."""
        return os.getpid()

    async def exchanges(self) -> int:
        """How many are under way, for tests and operators."""
        return len(self)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for exchange_id in self.expire():
                logger.info("exchange %s has lost its caller", exchange_id)

    async def _watch_pool(self) -> None:
        while not self._pool.is_gone:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self._pool.look()
        os._exit(0)
