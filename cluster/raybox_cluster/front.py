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
from raybox_cluster.front_exchange import Exchange
from raybox_cluster.gateway.auth import ApiKey, ApiKeys, hash_key, new_key

logger = logging.getLogger(__name__)

#: Who asks over Ray without a key. They have joined the cluster, so they are trusted with all of it.
KEYLESS_OWNER: Final = "ray"
#: An exchange that nobody has asked about for so long has lost its caller. Callers that live say so every 5 s.
IDLE_S: Final = 20.0
SWEEP_S: Final = 5.0
#: The longest that one call waits; then it answers with nothing, and its caller asks again.
WAIT_MOST_S: Final = 30.0
#: How often it looks whether its pool still exists, and after how many misses it ends itself.
POOL_CHECK_INTERVAL_S, POOL_CHECK_MISSES = 30.0, 4

#: Of a Part: status, headers, data, stage. Stage `unknown`: there is no such exchange, or not any more.
PlainPart = tuple[int, list[tuple[str, str]], bytes, str]


class Front:
    """Plain class of the actor. Exchanges are named by their callers."""

    def __init__(self, config: PoolConfig, keys: tuple[ApiKey, ...]) -> None:
        # Here, because the manager imports this file for the names of the methods, and shall not carry all of this.
        from raybox_cluster.gateway.app import create_app
        from raybox_cluster.pool.backend_ray import RayBackend

        self._config = config
        keyless = ApiKey(KEYLESS_OWNER, hash_key(new_key()), admin=True)
        self._app = create_app(RayBackend(config), ApiKeys(keys, keyless=keyless), max_timeout_s=config.max_timeout_s)
        self._exchanges: dict[str, Exchange] = {}
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
        exchange = self._exchanges[exchange_id] = Exchange(self._app, method, target, headers, body, more)
        return await self._read(exchange_id, exchange, wait_s)

    async def feed(self, exchange_id: str, data: bytes, more: bool) -> bool:
        """The next piece of the body. Returns when the application has taken it; false if it wants no more."""
        exchange = self._exchanges.get(exchange_id)
        return exchange is not None and await exchange.feed(data, more)

    async def read(self, exchange_id: str, wait_s: float) -> PlainPart:
        """What there is of the answer, or nothing after `wait_s`: status (0: it has not begun), headers (once), data,
        stage."""
        exchange = self._exchanges.get(exchange_id)
        return (0, [], b"", "unknown") if exchange is None else await self._read(exchange_id, exchange, wait_s)

    async def touch(self, exchange_ids: list[str]) -> None:
        """Their caller is still there, though it does not read."""
        for exchange_id in exchange_ids:
            if (exchange := self._exchanges.get(exchange_id)) is not None:
                exchange.touch()

    async def close(self, exchange_id: str) -> None:
        """Nobody wants the rest; to the application this is a client that went away. May be repeated."""
        if (exchange := self._exchanges.pop(exchange_id, None)) is not None:
            exchange.abandon()

    async def exchanges(self) -> int:
        """How many are under way, for tests and operators."""
        return len(self._exchanges)

    async def _read(self, exchange_id: str, exchange: Exchange, wait_s: float) -> PlainPart:
        part = await exchange.read(min(wait_s, WAIT_MOST_S))
        if part.stage != "open":
            self._exchanges.pop(exchange_id, None)
        return part.status, part.headers, part.data, part.stage

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            for exchange_id, exchange in list(self._exchanges.items()):
                if exchange.idle_since_s + IDLE_S < loop.time():
                    logger.info("exchange %s has lost its caller", exchange_id)
                    await self.close(exchange_id)

    async def _watch_pool(self) -> None:
        misses = 0
        while misses < POOL_CHECK_MISSES:
            await asyncio.sleep(POOL_CHECK_INTERVAL_S)
            try:
                await asyncio.to_thread(ray.get_actor, manager_name(self._config), namespace=NAMESPACE)
                misses = 0
            except ValueError:
                misses += 1
            except Exception as error:  # the cluster does not answer, which says nothing of the pool
                logger.warning("cannot look for the pool: %r", error)
        os._exit(0)
