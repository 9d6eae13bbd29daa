"""The asyncio lease. Its twin is `_lease_sync.py`: same methods, same order, same docstrings."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from . import _requests, _responses, _transport
from ._config import ConnectionConfig
from ._lease import LeaseBase, keep_alive
from ._requests import Request
from ._sandbox_async import AsyncSandbox
from ._sandbox_base import options_of


class AsyncLease(LeaseBase):
    """A sandbox that everybody who leases the same key has. Made by `AsyncPool.lease`.

    As a context manager it is released at the end.
    """

    #: What was leased.
    sandbox: AsyncSandbox

    @classmethod
    async def _got(cls, config: ConnectionConfig, request: Request, key: str) -> Self:
        access, created, ttl_s, expires_at = _responses.leased(request, await _transport.send_async(request))
        keep_alive(config, request, ttl_s)
        lease = cls(config, key, ttl_s, created, expires_at)
        lease.sandbox = AsyncSandbox(**options_of(access, config))
        return lease

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.release()

    async def renew(self, ttl_s: float | None = None) -> None:
        """Let it live for `ttl_s` from now, default what it was leased for. Raises SandboxNotFoundException if it has
        ended."""
        timeout = self._renewal(ttl_s)
        await self.sandbox.set_timeout(timeout)
        self._renewed(timeout)

    async def release(self) -> bool:
        """End the lease and its sandbox, whoever else uses it. True if it was there, False if not any more: a sandbox
        that the key has got since is left alone. May be repeated."""
        request = _requests.release_lease(self._config, self.key, self.sandbox.sandbox_id)
        return await _transport.end_async(request)
