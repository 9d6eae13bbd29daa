"""Signed file URLs that name no sandbox: whose token was it? (contract 1.4)

Tokens are random, so that at most one sandbox's gives the signature of the URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from raybox_actors.values import SandboxInfo

from .backend import Backend
from .signatures import AccessDenied, Operation, is_signed_by
from .traffic import TrafficTokens


class Owners:
    """Looks among the sandboxes that this gateway has seen first, and then among all. However many requests come, the
    pool is asked for one list at a time."""

    def __init__(self, backend: Backend, tokens: TrafficTokens) -> None:
        self._backend, self._tokens = backend, tokens
        self._listing: asyncio.Task[list[SandboxInfo]] | None = None

    async def find(self, operation: Operation, query: dict[str, str]) -> str:
        """The id of the sandbox; it may be gone, and the signature may have expired. Raises AccessDenied."""
        if not query.get("signature"):
            raise AccessDenied("missing signature query parameter")
        owner = _match(self._tokens.envd_tokens(), operation, query)
        if owner is None:
            live = await self._live()
            owner = _match(((info.sandbox_id, info.envd_access_token) for info in live), operation, query)
        if owner is None:
            raise AccessDenied("invalid signature")
        return owner

    async def _live(self) -> list[SandboxInfo]:
        """A list that was begun after this call, so that a sandbox made before it is in it."""
        if (under_way := self._listing) is not None:
            await asyncio.wait((under_way,))
        if self._listing is None or self._listing is under_way or self._listing.done():
            self._listing = asyncio.create_task(self._backend.sandboxes())
        return await asyncio.shield(self._listing)


def _match(sandboxes: Iterable[tuple[str, str | None]], operation: Operation, query: dict[str, str]) -> str | None:
    return next(
        (sandbox_id for sandbox_id, token in sandboxes if token is not None and is_signed_by(token, operation, query)),
        None,
    )
