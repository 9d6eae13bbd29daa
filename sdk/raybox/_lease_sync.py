"""The blocking lease. Its twin is `_lease_async.py`: same methods, same order, same docstrings."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from . import _requests, _responses, _transport
from ._config import ConnectionConfig
from ._lease import LeaseBase, keep_alive
from ._requests import Request
from ._sandbox_base import options_of
from ._sandbox_sync import Sandbox


class Lease(LeaseBase):
    """A sandbox that everybody who leases the same key has. Made by `Pool.lease`.

    As a context manager it is released at the end.
    """

    #: What was leased.
    sandbox: Sandbox

    @classmethod
    def _got(cls, config: ConnectionConfig, request: Request, key: str) -> Self:
        access, created, ttl_s, expires_at = _responses.leased(request, _transport.send(request))
        keep_alive(config, request, ttl_s)
        lease = cls(config, key, ttl_s, created, expires_at)
        lease.sandbox = Sandbox(**options_of(access, config))
        return lease

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def renew(self, ttl_s: float | None = None) -> None:
        """Let it live for `ttl_s` from now, default what it was leased for. Raises SandboxNotFoundException if it has
        ended."""
        timeout = self._renewal(ttl_s)
        self.sandbox.set_timeout(timeout)
        self._renewed(timeout)

    def release(self) -> bool:
        """End the lease and its sandbox, whoever else uses it. True if it was there, False if not any more: a sandbox
        that the key has got since is left alone. May be repeated."""
        request = _requests.release_lease(self._config, self.key, self.sandbox.sandbox_id)
        return _transport.end(request)
