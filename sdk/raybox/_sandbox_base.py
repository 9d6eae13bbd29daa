"""What both colours of a sandbox share: its identity and the requests it makes. No I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, TypedDict

from . import _requests
from ._config import DEFAULT_TEMPLATE, RAY_SCHEME, ConnectionConfig
from ._envd_requests import path_of
from ._errors import InvalidArgumentException
from ._responses import Access
from ._signature import file_url


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

    @property
    def envd_api_url(self) -> str:
        """Origin of the requests for files and commands."""
        return self._address.envd_url

    @property
    def envd_direct_url(self) -> str:
        """Origin of signed URLs."""
        return self._address.envd_url

    def download_url(self, path: str, user: str | None = None, use_signature_expiration: int | None = None) -> str:
        """A URL from which anybody can GET a file, without the key.

        user: whose home a relative path is in. use_signature_expiration: seconds from now for which it works; default:
        as long as the sandbox lives. Raises InvalidArgumentException.
        """
        return self._file_url(path, "read", user, use_signature_expiration)

    def upload_url(self, path: str, user: str | None = None, use_signature_expiration: int | None = None) -> str:
        """A URL to which anybody can POST a file, as a form (multipart/form-data) with one part named `file`.

        user: who owns it, and whose home a relative path is in. use_signature_expiration: seconds from now for which it
        works; default: as long as the sandbox lives. Raises InvalidArgumentException.
        """
        return self._file_url(path, "write", user, use_signature_expiration)

    def _file_url(self, path: str, operation: Literal["read", "write"], user: str | None, lasts_s: int | None) -> str:
        if self.envd_direct_url.startswith(RAY_SCHEME):
            raise InvalidArgumentException("over Ray there are no URLs: connect to the sandbox by the gateway's URL")
        expires_unix_s = None if lasts_s is None else int(time.time()) + lasts_s
        return file_url(self.envd_direct_url, path_of(path), operation, user, self._envd_access_token, expires_unix_s)

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
