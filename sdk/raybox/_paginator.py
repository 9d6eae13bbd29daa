"""Where a listing stands, without I/O."""

from __future__ import annotations

from typing import Self, Unpack

from . import _requests, _responses
from ._config import ApiParams, ConnectionConfig
from ._errors import InvalidArgumentException
from ._models import SandboxInfo, SandboxListOrder, SandboxQuery
from ._responses import Reply


class PaginatorBase:
    """What both colours of the paginator share."""

    def __init__(
        self,
        query: SandboxQuery | None = None,
        limit: int | None = None,
        next_token: str | None = None,
        order: SandboxListOrder | None = None,
        **opts: Unpack[ApiParams],
    ) -> None:
        self._begin(ConnectionConfig.resolve(opts), query, limit, next_token, order)

    @classmethod
    def _of(
        cls,
        config: ConnectionConfig,
        query: SandboxQuery | None,
        limit: int | None,
        next_token: str | None,
        order: SandboxListOrder | None,
    ) -> Self:
        """With options that are resolved already."""
        paginator = cls.__new__(cls)
        paginator._begin(config, query, limit, next_token, order)
        return paginator

    def _begin(
        self,
        config: ConnectionConfig,
        query: SandboxQuery | None,
        limit: int | None,
        next_token: str | None,
        order: SandboxListOrder | None,
    ) -> None:
        self.query = query
        self.limit = limit
        self.order = order
        self._config = config
        self._has_next = True
        self._next_token = next_token

    @property
    def has_next(self) -> bool:
        """Whether there is a page that was not asked for yet."""
        return self._has_next

    @property
    def next_token(self) -> str | None:
        """What a new paginator goes on from; None before the first page and after the last."""
        return self._next_token

    def _request(self, opts: ApiParams) -> _requests.Request:
        if not self._has_next:
            raise InvalidArgumentException("there are no more pages")
        config = self._config.with_options(opts)
        return _requests.list_sandboxes(config, self.query, self.limit, self._next_token, self.order)

    def _turn(self, request: _requests.Request, reply: Reply) -> list[SandboxInfo]:
        page, self._next_token = _responses.sandbox_page(request, reply)
        self._has_next = self._next_token is not None
        return page
