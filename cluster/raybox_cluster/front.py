"""Front: the actor through which callers over Ray reach the gateway's application, on the node that they are on.

The application is the one that HTTP reaches, in this process, with RayBackend beneath it; what is asked of it comes as
actor calls of builtins alone (docs/protocol.md, "Over Ray"). Nothing is lost with a front but what is under way in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

import ray

from raybox_actors.config import NAMESPACE, PoolConfig, manager_name
from raybox_actors.off_loop import off_loop
from raybox_cluster.front_exchange import Exchanges
from raybox_cluster.gateway.auth import KEYLESS_OWNER, ApiKey, ApiKeys, hash_key, new_key

logger = logging.getLogger(__name__)

SWEEP_S: Final = 5.0
#: How often it looks whether its pool still exists, and after how many misses it ends itself.
POOL_CHECK_INTERVAL_S, POOL_CHECK_MISSES = 30.0, 4

#: Of a Part: status, headers, data, stage.
PlainPart = tuple[int, list[tuple[str, str]], bytes, str]


class Front:
    """Plain class of the actor. Exchanges are named by their callers."""

    def __init__(self, config: PoolConfig, keys: tuple[ApiKey, ...]) -> None:
        # Here, because the manager imports this file for the names of the methods, and shall not carry all of this.
        from raybox_cluster.gateway.app import create_app
        from raybox_cluster.pool.backend_ray import RayBackend

        self._config = config
        keyless = ApiKey(KEYLESS_OWNER, hash_key(new_key()), admin=True)
        app = create_app(
            RayBackend(config),
            ApiKeys(keys, keyless=keyless),
            max_timeout_s=config.max_timeout_s,
            max_wait_s=config.max_admission_wait_s,
        )
        self._exchanges = Exchanges(app)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._sweep()), loop.create_task(self._watch_pool())]

    async def ping(self) -> int:
        """The actor's pid."""
        return os.getpid()

    async def open(
        self,
        exchange_id: str,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        more: bool,
        wait_s: float,
    ) -> PlainPart:
        """Begin an exchange; `target` is path and query, `more` says that `feed` brings the rest of the body. Answers
        as `read` does."""
        return (await self._exchanges.open(exchange_id, method, target, headers, body, more, wait_s)).plain()

    async def feed(self, exchange_id: str, data: bytes, more: bool) -> bool:
        """The next piece of the body. Returns when the application has taken it; false if it wants no more."""
        return await self._exchanges.feed(exchange_id, data, more)

    async def read(self, exchange_id: str, wait_s: float) -> PlainPart:
        """What there is of the answer, or nothing after `wait_s`: status (0: it has not begun), headers (once), data,
        stage."""
        return (await self._exchanges.read(exchange_id, wait_s)).plain()

    async def touch(self, exchange_ids: list[str]) -> None:
        """Their caller is still there, though it does not read."""
        self._exchanges.touch(exchange_ids)

    async def close(self, exchange_id: str) -> None:
        """Nobody wants the rest; to the application this is a client that went away. May be repeated."""
        self._exchanges.close(exchange_id)

    async def exchanges(self) -> int:
        """How many are under way, for tests and operators."""
        return len(self._exchanges)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for exchange_id in self._exchanges.expire():
                logger.info("exchange %s has lost its caller", exchange_id)

    async def _watch_pool(self) -> None:
        misses = 0
        while misses < POOL_CHECK_MISSES:
            await asyncio.sleep(POOL_CHECK_INTERVAL_S)
            try:
                await off_loop(ray.get_actor, manager_name(self._config), namespace=NAMESPACE)
                misses = 0
            except ValueError:
                misses += 1
            except Exception as error:  # the cluster does not answer, which says nothing of the pool
                logger.warning("cannot look for the pool: %r", error)
        os._exit(0)
