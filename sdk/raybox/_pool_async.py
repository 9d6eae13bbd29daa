"""The asyncio pool. Its twin is `_pool_sync.py`: same methods, same order, same docstrings."""

from __future__ import annotations

import builtins
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Unpack

from . import _requests, _responses, _transport
from ._batch import AsyncItems, BatchOptions, ItemKind, ItemResult
from ._config import ApiParams
from ._lease import DEFAULT_TTL_S, LeaseOwner
from ._lease_async import AsyncLease
from ._models import SandboxListOrder, SandboxOnResume, SandboxQuery
from ._pool import CreateParams, PoolBase, resolve
from ._pool_models import PoolCapacity
from ._sandbox_async import AsyncSandbox, AsyncSandboxPaginator


def connect_async(
    url: str | None = None, *, logger: logging.Logger | None = None, **opts: Unpack[ApiParams]
) -> AsyncPool:
    """The pool, as whoever creates many sandboxes sees it; no I/O: nothing is asked for before its methods are called.

    url: `http://...`, `https://...`, or `ray://<pool>` in a process that has joined the pool's Ray cluster (`ray://`:
    the only pool there). Without one, `transport`, `pool` and the environment say where the pool is; see ApiParams.
    logger: is told of every request (INFO). opts hold for all calls on the pool and its sandboxes.
    Raises InvalidArgumentException.
    """
    return AsyncPool(resolve(url, logger, opts))


class AsyncPool(PoolBase):
    """A pool of sandboxes, with the options of all calls on it. Made by `connect_async`.

    Holds no connection: objects may be shared by threads and pickled.
    """

    async def create(self, template: str | None = None, **params: Unpack[CreateParams]) -> AsyncSandbox:
        """Get a sandbox that is ready to run code: `Sandbox.create` with the options of the pool."""
        return await AsyncSandbox._born(*self._create(template, params))

    async def create_many(
        self, n: int, *, deadline_s: float = 60.0, template: str | None = None, **params: Unpack[CreateParams]
    ) -> builtins.list[AsyncSandbox]:
        """Get n sandboxes together: all of them, or none.

        deadline_s: how long they may take, those that have to wait for others to end included. Other parameters as for
        `create`, the same for each; an idempotency_key stands for all of them.
        Raises GangException when they cannot all be had by then; `report` says what had become of each, and what was
        made has been given back. So has what was made for a caller who goes away, unless it gave an idempotency_key.
        """
        config, request = self._create_many(n, deadline_s, template, params)
        reply = await _transport.send_async(request)
        return [AsyncSandbox._made(access, config) for access in _responses.accesses(request, reply)]

    async def capacity(self, **opts: Unpack[ApiParams]) -> PoolCapacity:
        """How many sandboxes could be started at this moment, and what limits them."""
        request = _requests.capacity(self._config.with_options(opts))
        return _responses.capacity(request, await _transport.send_async(request))

    async def connect(
        self,
        sandbox_id: str,
        timeout: int | None = None,
        *,
        on_resume: SandboxOnResume = "restore",
        **opts: Unpack[ApiParams],
    ) -> AsyncSandbox:
        """Attach to a sandbox that exists: `Sandbox.connect` with the options of the pool."""
        return await AsyncSandbox._found(self._config.with_options(opts), sandbox_id, timeout, on_resume)

    def list(
        self,
        query: SandboxQuery | None = None,
        limit: int | None = None,
        next_token: str | None = None,
        order: SandboxListOrder | None = None,
        **opts: Unpack[ApiParams],
    ) -> AsyncSandboxPaginator:
        """Sandboxes of this key, in pages: `Sandbox.list` with the options of the pool."""
        return AsyncSandboxPaginator._of(self._config.with_options(opts), query, limit, next_token, order)

    async def kill(self, sandbox_id: str, **opts: Unpack[ApiParams]) -> bool:
        """End a sandbox and everything in it. True if it was there, False if not any more. Can be repeated."""
        request = _requests.kill(self._config.with_options(opts), sandbox_id)
        return await _transport.end_async(request)

    async def lease(
        self,
        key: str,
        *,
        ttl_s: float = DEFAULT_TTL_S,
        owner: LeaseOwner | None = None,
        recreate: bool = False,
        template: str | None = None,
        **params: Unpack[CreateParams],
    ) -> AsyncLease:
        """The sandbox of a key: the same one for every call with it, from any process, until it is released, has not
        been leased or renewed for `ttl_s`, or its last owner is dead. Whoever leases it is one of its owners.

        key: 1 to 255 letters, digits and characters of "._:~@=+-"; each API key has keys of its own. owner: "job",
        "actor" or "process" of Ray, "process" over HTTP (its heartbeats), or "none", which never dies; default: the job
        over Ray, this process over HTTP. Death is noticed within ten seconds. recreate: a sandbox that was lost is
        replaced without a word. template, params: as for `create`, if there has to be one; without `timeout`.
        Raises SandboxNotRunningException, once, when the sandbox of the key died of itself since the last call (`cause`
        and `should_mask_sample` say of what): its state is gone, and the next call makes another. Also what `create`
        raises, and LimitException beyond 64 living owners. Can be repeated.
        """
        return await AsyncLease._got(*self._lease(key, ttl_s, owner, recreate, template, params), key)

    def exec_many(
        self,
        items: AsyncItems,
        *,
        max_in_flight: int | None = None,
        deadline_s: float | None = None,
        language: str | None = None,
        kind: ItemKind = "cell",
        timeout_s: float | None = None,
        fresh: bool = False,
        env_vars: Mapping[str, str] | None = None,
        template: str | None = None,
        **params: Unpack[CreateParams],
    ) -> AsyncIterator[ItemResult]:
        """Run many pieces of code, each by itself; gives what became of each, as they are done.

        items: `str` or `ExecItem`, from any iterable, endless ones too: it is read no further ahead than they can be
        begun. Each runs in a fresh interpreter with files of its own, of which the next item sees nothing, on sandboxes
        that the batch has for itself and that take one item after the other; fresh: a sandbox for each item.
        max_in_flight: how many run at once (None: half of the pool); fewer sandboxes are enough. timeout_s: of each
        item (60 s). deadline_s: of all of it; what is not done by then is told as `deadline`. kind, language, env_vars:
        of items that do not say it themselves. template and params: as for `create`.

        Every item gives one result. What fails for no fault of its code runs again on another sandbox, three times in
        all, and is then told as `infrastructure`, with should_mask_sample; a gateway that is lost counts, too. Closing
        the iterator ends what runs. Raises InvalidArgumentException, what reading items raises, and the errors of
        requests; before that, items on their way are told as `infrastructure`, should the pool have gone.
        """
        from . import _batch_async  # only with the first batch: not everybody has one

        options: BatchOptions = {
            "max_in_flight": max_in_flight,
            "deadline_s": deadline_s,
            "language": language,
            "kind": kind,
            "timeout_s": timeout_s,
            "fresh": fresh,
            "env_vars": env_vars,
        }
        return _batch_async.exec_many(*self._batch(template, options, params), items)
