"""What both colours of a sandbox share: its identity and the requests it makes. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from . import _requests
from ._config import DEFAULT_TEMPLATE, ConnectionConfig
from ._errors import InvalidArgumentException
from ._responses import Access


class SandboxOpts(TypedDict):
    """What a sandbox object is made of."""

    sandbox_id: str
    sandbox_domain: str | None
    envd_version: str
    envd_access_token: str | None
    traffic_access_token: str | None
    connection_config: ConnectionConfig


class SandboxBase:
    """Holds no connection and no lock, so it can be pickled and sent to another process, and be garbage any time.

    timings_ms: what `create` took on the server, in milliseconds by phase (`queued`, `claimed`, `ready`); empty when
    the server does not say.
    """

    default_template = DEFAULT_TEMPLATE
    default_sandbox_timeout = 300

    def __init__(
        self,
        sandbox_id: str,
        envd_version: str,
        envd_access_token: str | None,
        sandbox_domain: str | None,
        connection_config: ConnectionConfig,
        traffic_access_token: str | None = None,
    ) -> None:
        self._id = sandbox_id
        self._config = connection_config
        self._domain = sandbox_domain
        self._envd_version = envd_version
        self._envd_access_token = envd_access_token
        self._traffic_access_token = traffic_access_token
        self._address = _requests.address(
            connection_config, sandbox_id, sandbox_domain, envd_access_token, traffic_access_token
        )
        self.timings_ms: Mapping[str, float] = {}

    @property
    def sandbox_id(self) -> str:
        """Name of the sandbox, for `connect` from elsewhere."""
        return self._id

    @property
    def sandbox_domain(self) -> str | None:
        """Domain under which the sandbox has host names; None when requests are routed by header."""
        return self._domain or self._config.domain

    @property
    def connection_config(self) -> ConnectionConfig:
        """The options that this sandbox's calls use."""
        return self._config

    @property
    def traffic_access_token(self) -> str | None:
        """What requests to the sandbox's ports must carry when its traffic is not public; None when it is."""
        return self._traffic_access_token

    def get_host(self, port: int) -> str:
        """Host name, without a scheme, under which a port of the sandbox is reached from outside.

        Raises InvalidArgumentException when neither the pool nor the options name a domain.
        """
        if not self.sandbox_domain:
            raise InvalidArgumentException("there are no host names: neither the pool nor domain=... names a domain")
        return f"{port}-{self._id}.{self.sandbox_domain}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._id!r})"


def options_of(access: Access, config: ConnectionConfig) -> SandboxOpts:
    return SandboxOpts(
        sandbox_id=access.sandbox_id,
        sandbox_domain=access.domain,
        envd_version=access.envd_version,
        envd_access_token=access.envd_token,
        traffic_access_token=access.traffic_token,
        connection_config=config,
    )
