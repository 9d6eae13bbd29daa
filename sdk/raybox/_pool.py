"""What both colours of a pool share: its options, and the parameters of a create. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from . import _requests
from ._batch import BatchOptions, options_of
from ._config import DEFAULT_TEMPLATE, ApiParams, ConnectionConfig
from ._lease import LeaseOwner, lease_request
from ._requests import Request


class CreateParams(ApiParams, total=False):
    """What a sandbox is created with, besides its template: as for `Sandbox.create`."""

    timeout: int | None
    metadata: dict[str, str] | None
    envs: dict[str, str] | None
    secure: bool | None
    allow_internet_access: bool | None
    mcp: object | None
    network: Mapping[str, Any] | None
    iam: Mapping[str, Any] | None
    lifecycle: Mapping[str, Any] | None
    volume_mounts: Mapping[str, Any] | None
    idempotency_key: str | None
    wait_s: float | None
    locality: Literal["caller"] | None


class PoolBase:
    """Holds options and no connection, so it can be pickled and shared by threads."""

    def __init__(self, connection_config: ConnectionConfig) -> None:
        """For options that are resolved already; use `connect` or `connect_async` instead."""
        self._config = connection_config

    @property
    def connection_config(self) -> ConnectionConfig:
        """The options that calls on the pool use, and on the sandboxes that it gives."""
        return self._config

    def _create(self, template: str | None, params: CreateParams) -> tuple[ConnectionConfig, Request]:
        """What a sandbox of these parameters uses, and the request that makes it."""
        options, wanted = split(params)
        config = self._config.with_options(options)
        return config, _requests.create(config, template or DEFAULT_TEMPLATE, **wanted)

    def _lease(
        self,
        key: str,
        ttl_s: float,
        owner: LeaseOwner | None,
        recreate: bool,
        template: str | None,
        params: CreateParams,
    ) -> tuple[ConnectionConfig, Request]:
        config, create = self._create(template, params)
        return config, lease_request(config, key, ttl_s, owner, recreate, create)

    def _batch(
        self, template: str | None, options: BatchOptions, params: CreateParams
    ) -> tuple[ConnectionConfig, dict[str, Any]]:
        """What a batch uses, and what its first line says."""
        config, create = self._create(template, params)
        return config, options_of(options, create)

    def _create_many(
        self, n: int, deadline_s: float, template: str | None, params: CreateParams
    ) -> tuple[ConnectionConfig, Request]:
        config, create = self._create(template, params)
        return config, _requests.create_many(config, n, deadline_s, create)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._config.api_url!r})"


def split(params: CreateParams) -> tuple[ApiParams, dict[str, Any]]:
    """The options of the call, and what `_requests.create` takes."""
    options: dict[str, Any] = dict(params)
    wanted = {name: options.pop(name) for name in _OF_CREATE if name in options}
    wanted.pop("secure", None)  # accepted as the E2B SDK does; every sandbox is secured
    return options, wanted  # type: ignore[return-value]  # whoever takes the options refuses what they do not know


_OF_CREATE = CreateParams.__annotations__.keys() - ApiParams.__annotations__.keys()


def resolve(url: str | None, logger: logging.Logger | None, opts: ApiParams) -> ConnectionConfig:
    """The options of a pool. `url` goes before `api_url`."""
    return ConnectionConfig.resolve(opts if url is None else {**opts, "api_url": url}, logger)
