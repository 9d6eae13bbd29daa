"""Creating sandboxes for clients who may not wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from raybox_actors.errors import RayboxError
from raybox_actors.values import CreateRequest, SandboxInfo

from .asgi import ClientGone, Receive, wait_until_gone
from .backend import Backend

logger = logging.getLogger(__name__)


class Creations:
    """Owns the tasks of clients who left: their sandboxes are killed as soon as they exist, since nobody knows the id.
    Otherwise each would hold its place in the pool until its timeout. With an idempotency key the sandbox stays: the
    client can still come back for it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._abandoned: set[asyncio.Task[None]] = set()

    async def create(self, request: CreateRequest, receive: Receive) -> SandboxInfo:
        """Raises what `Backend.create` raises, and ClientGone. The request's body must have been read."""

        async def create_one() -> list[SandboxInfo]:
            return [await self._backend.create(request)]

        return (await self._unless_gone(create_one(), receive, keep=request.idempotency_key is not None))[0]

    async def create_many(
        self, request: CreateRequest, count: int, deadline_s: float, receive: Receive
    ) -> list[SandboxInfo]:
        """The same of `Backend.create_many`."""
        call = self._backend.create_many(request, count, deadline_s)
        return await self._unless_gone(call, receive, keep=request.idempotency_key is not None, give_up=True)

    async def _unless_gone(
        self, work: Coroutine[Any, Any, list[SandboxInfo]], receive: Receive, *, keep: bool, give_up: bool = False
    ) -> list[SandboxInfo]:
        """give_up: what is under way can be cancelled when the client goes, and leaves nothing then."""
        gone = asyncio.create_task(wait_until_gone(receive))
        call = asyncio.ensure_future(work)
        answered = False
        try:
            await asyncio.wait((call, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGone
            answered = True
            return call.result()
        finally:
            gone.cancel()
            if not answered:
                if give_up and not keep:
                    call.cancel()
                task = asyncio.create_task(self._abandon(call, keep=keep))
                self._abandoned.add(task)
                task.add_done_callback(self._abandoned.discard)

    async def _abandon(self, call: asyncio.Future[list[SandboxInfo]], *, keep: bool) -> None:
        try:
            infos = await call
            if not keep:
                await asyncio.gather(*(self._end(info) for info in infos))
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
        except RayboxError as error:
            logger.debug("an abandoned creation failed by itself: %s", error)
        except Exception:
            logger.exception("an abandoned creation failed")

    async def _end(self, info: SandboxInfo) -> None:
        logger.info("sandbox %s: its creator has gone", info.sandbox_id)
        try:
            await self._backend.kill(info.sandbox_id)
        except RayboxError as error:
            logger.debug("an abandoned sandbox ended by itself: %s", error)
        except Exception:
            logger.exception("an abandoned sandbox could not be killed")
