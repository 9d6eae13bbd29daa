"""Creating sandboxes for clients who may not wait for them."""

from __future__ import annotations

import asyncio
import logging

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
        gone = asyncio.create_task(wait_until_gone(receive))
        call = asyncio.ensure_future(self._backend.create(request))
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
                task = asyncio.create_task(self._abandon(call, keep=request.idempotency_key is not None))
                self._abandoned.add(task)
                task.add_done_callback(self._abandoned.discard)

    async def _abandon(self, call: asyncio.Future[SandboxInfo], *, keep: bool) -> None:
        try:
            info = await call
            if not keep:
                logger.info("sandbox %s: its creator has gone", info.sandbox_id)
                await self._backend.kill(info.sandbox_id)
        except RayboxError as error:
            logger.debug("an abandoned creation failed by itself: %s", error)
        except Exception:
            logger.exception("an abandoned sandbox could not be killed")
