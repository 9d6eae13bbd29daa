"""Where the pool is and how to speak to it: options, then the environment, then defaults.

Per value, the first that is given wins: the option of the call; `RAYBOX_URL` / `RAYBOX_API_KEY`; `E2B_API_URL`,
`E2B_SANDBOX_URL`, `E2B_DOMAIN`, `E2B_API_KEY`; the default. One origin serves both planes unless told otherwise.

A URL that begins with `ray://` names a pool of the Ray cluster that this process has joined, and is spoken to by actor
calls. With no URL given anywhere, that is what a process gets that has joined one.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypedDict

from ._errors import InvalidArgumentException

__version__ = "0.1.0"

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_REQUEST_TIMEOUT_S = 60.0
DEFAULT_EXECUTION_TIMEOUT_S = 300.0
DEFAULT_RETRIES = 3
DEFAULT_TEMPLATE = "code-interpreter-v1"

INTERPRETER_PORT = 49999
ENVD_PORT = 49983
USER_AGENT = f"raybox-python/{__version__}"

HttpVersion = Literal["1.1", "2"]
Transport = Literal["auto", "http", "ray"]

RAY_SCHEME: Final = "ray://"
#: What a `ray://` URL may name; nothing: the only pool of the cluster.
_RAY_URL: Final = re.compile(r"ray://[A-Za-z0-9_-]*")


class ApiParams(TypedDict, total=False):
    """Options that every call takes; those given to `create` and `connect` hold for the sandbox they return."""

    request_timeout: float | None
    """Seconds one request may take, waits between its retries included. Default 60; 0 = no limit."""
    retries: int | None
    """How often a control-plane request is repeated when the server refuses it for now. Default 3; 0 = never."""
    headers: dict[str, str] | None
    """Further headers of control-plane requests."""
    api_headers: dict[str, str] | None
    """The same; wins over `headers`."""
    api_key: str | None
    """Default: RAYBOX_API_KEY, then E2B_API_KEY."""
    validate_api_key: bool | None
    """Accepted and ignored: the server is the judge of keys."""
    domain: str | None
    """With no URL given anywhere: control plane at https://api.<domain>, sandboxes at https://<port>-<id>.<domain>."""
    api_url: str | None
    """Control plane, and data plane too unless `sandbox_url` says otherwise. Default: RAYBOX_URL, then E2B_API_URL."""
    debug: bool | None
    """Accepted as False; True raises InvalidArgumentException, as there is no sandbox without a pool."""
    proxy: str | None
    """URL of an HTTP proxy. Default: as HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY say, but none for this machine."""
    sandbox_url: str | None
    """Data plane. Default: `api_url` if given, else RAYBOX_URL, else E2B_SANDBOX_URL."""
    http_version: HttpVersion | None
    """Accepted; every connection speaks HTTP/1.1, where a closed connection tells the server to interrupt."""
    transport: Transport | None
    """"http", "ray" (actor calls, in a process that has joined the pool's Ray cluster), or "auto": over Ray if the
    process has joined a cluster and no URL or domain is given. Default: RAYBOX_TRANSPORT, then "auto"."""
    pool: str | None
    """Over Ray: the name of the pool; asks for Ray unless `transport` says otherwise. Default: RAYBOX_POOL, then the
    only pool of the cluster."""


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """The resolved options of one sandbox or one call. Immutable and picklable; its repr hides the key."""

    api_key: str | None = field(default=None, repr=False)
    api_url: str = DEFAULT_URL
    sandbox_url: str | None = DEFAULT_URL  # None: by host name, under `domain`
    domain: str | None = None
    request_timeout: float | None = DEFAULT_REQUEST_TIMEOUT_S  # seconds; None: no limit
    retries: int = DEFAULT_RETRIES
    connect_retries: int = DEFAULT_RETRIES  # of connections that do not come about
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = None
    logger: logging.Logger | None = None

    @classmethod
    def resolve(cls, options: ApiParams, logger: logging.Logger | None = None) -> ConnectionConfig:
        """Options over environment over defaults. Raises InvalidArgumentException."""
        _reject_unknown(options)
        env = os.environ.get
        over_ray = choose_transport(options, os.environ, has_joined_ray()) == "ray"
        api_url, sandbox_url = _ray_urls(options, os.environ) if over_ray else _http_urls(options, os.environ)
        return cls(
            # Over Ray no key is needed, so one that is meant for another service must not be sent.
            api_key=options.get("api_key") or env("RAYBOX_API_KEY") or (None if over_ray else env("E2B_API_KEY")),
            api_url=api_url,
            sandbox_url=sandbox_url,
            domain=options.get("domain") or env("E2B_DOMAIN"),
            request_timeout=seconds(options.get("request_timeout"), DEFAULT_REQUEST_TIMEOUT_S, "request_timeout"),
            retries=_retries(options.get("retries")),
            connect_retries=_connect_retries(env("E2B_CONNECTION_RETRIES")),
            headers={**(options.get("headers") or {}), **(options.get("api_headers") or {})},
            proxy=options.get("proxy"),
            logger=logger,
        )

    def with_options(self, options: ApiParams) -> ConnectionConfig:
        """This configuration with what one call says differently."""
        if not options:
            return self
        _reject_unknown(options)
        changes: dict[str, object] = {}
        url = options.get("api_url")
        if url or options.get("pool") or options.get("transport"):
            if choose_transport(options, {}, self.over_ray) == "ray":
                changes["api_url"], changes["sandbox_url"] = _ray_urls(options, {"RAYBOX_URL": self.api_url})
            elif url:
                changes["api_url"] = changes["sandbox_url"] = _url(url)
            elif self.over_ray:
                raise InvalidArgumentException("transport='http' needs an api_url here: everything else is over Ray")
        if options.get("api_key"):
            changes["api_key"] = options["api_key"]
        if url := options.get("sandbox_url"):
            changes["sandbox_url"] = _url(url)
        if options.get("domain"):
            changes["domain"] = options["domain"]
        if options.get("request_timeout") is not None:
            changes["request_timeout"] = seconds(options["request_timeout"], None, "request_timeout")
        if options.get("retries") is not None:
            changes["retries"] = _retries(options["retries"])
        if options.get("proxy"):
            changes["proxy"] = options["proxy"]
        extra = {**(options.get("headers") or {}), **(options.get("api_headers") or {})}
        if extra:
            changes["headers"] = {**self.headers, **extra}
        return replace(self, **changes)  # type: ignore[arg-type]  # mypy cannot match a dict with the fields' types

    @property
    def over_ray(self) -> bool:
        """Whether the control plane is spoken to by actor calls; then no API key is needed."""
        return self.api_url.startswith(RAY_SCHEME)

    def sandbox_base_url(self, sandbox_id: str, port: int, sandbox_domain: str | None) -> str:
        """Origin of one port of one sandbox; the headers route, unless sandboxes have host names."""
        if self.sandbox_url is not None:
            return self.sandbox_url
        return f"https://{port}-{sandbox_id}.{sandbox_domain or self.domain}"


def seconds(value: float | None, default: float | None, name: str) -> float | None:
    """A limit in seconds as callers write it: None = `default`, 0 = no limit (None)."""
    if value is None:
        return default
    if not value >= 0:  # NaN too
        raise InvalidArgumentException(f"{name} must not be negative, got {value!r}")
    return None if value == 0 else float(value)


def choose_transport(options: ApiParams, environment: Mapping[str, str], in_ray: bool) -> Literal["http", "ray"]:
    """What is said outright goes before what is found, and options before the environment. `in_ray`: this process has
    joined a Ray cluster. Raises InvalidArgumentException."""
    url, pool = options.get("api_url"), options.get("pool")
    wanted = options.get("transport") or ("ray" if pool else None)
    if url:
        said = _transport_of(url)
        if wanted not in (None, "auto", said):
            raise InvalidArgumentException(
                f"transport={wanted!r}, pool={pool!r} and the URL {url!r} exclude each other"
            )
        return said
    match wanted or environment.get("RAYBOX_TRANSPORT") or "auto":
        case "http" | "ray" as outright:
            return outright
        case "auto":
            pass
        case other:
            raise InvalidArgumentException(f"transport must be 'auto', 'http' or 'ray', got {other!r}")
    if options.get("sandbox_url") or options.get("domain"):
        return "http"
    if found := environment.get("RAYBOX_URL"):
        return _transport_of(found)
    if any(environment.get(name) for name in ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_DOMAIN")):
        return "http"
    return "ray" if in_ray else "http"


def _transport_of(url: str) -> Literal["http", "ray"]:
    return "ray" if url.startswith(RAY_SCHEME) else "http"


def _ray_urls(options: ApiParams, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """Control plane and data plane of the pool that is named by option, URL or RAYBOX_POOL; else of the only one."""
    url = options.get("api_url") or environment.get("RAYBOX_URL") or ""
    named = url.removeprefix(RAY_SCHEME) if url.startswith(RAY_SCHEME) else ""
    api_url = _url(RAY_SCHEME + (options.get("pool") or named or environment.get("RAYBOX_POOL") or ""))
    return api_url, _url(options.get("sandbox_url") or api_url)


def _http_urls(options: ApiParams, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """Control plane and data plane, None: by host name."""
    domain = options.get("domain") or environment.get("E2B_DOMAIN")
    given_url = options.get("api_url")
    raybox_url = None if given_url else environment.get("RAYBOX_URL")
    if raybox_url is not None and _transport_of(raybox_url) == "ray":  # HTTP was asked for outright
        raybox_url = None
    api_url = given_url or raybox_url or environment.get("E2B_API_URL")
    sandbox_url = options.get("sandbox_url") or raybox_url or environment.get("E2B_SANDBOX_URL")
    if sandbox_url is None and (api_url is not None or domain is None):
        sandbox_url = api_url or DEFAULT_URL
    if api_url is None:
        api_url = f"https://api.{domain}" if domain else DEFAULT_URL
    return _url(api_url), None if sandbox_url is None else _url(sandbox_url)


def has_joined_ray() -> bool:
    """Asked of Ray only where something else has imported it: importing it takes a second."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(getattr(ray, "is_initialized", bool)())


def own_ray_node() -> str | None:
    """Ray's id of the node that this process runs on, if it has joined a cluster."""
    return str(sys.modules["ray"].get_runtime_context().get_node_id()) if has_joined_ray() else None


def _url(url: str) -> str:
    if url.startswith(RAY_SCHEME):
        if _RAY_URL.fullmatch(url) is None:
            raise InvalidArgumentException(f"expected ray:// and the name of a pool, got {url!r}")
        return url
    if not url.startswith(("http://", "https://")):
        raise InvalidArgumentException(f"expected a URL that starts with http:// or https://, got {url!r}")
    return url.rstrip("/")


def _retries(value: int | None) -> int:
    if value is None:
        return DEFAULT_RETRIES
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgumentException(f"retries must be a non-negative integer, got {value!r}")
    return value


def _connect_retries(text: str | None) -> int:
    try:
        return _retries(int(text) if text else None)
    except ValueError as error:
        raise InvalidArgumentException(f"E2B_CONNECTION_RETRIES must be a number, got {text!r}") from error


def _reject_unknown(options: ApiParams) -> None:
    if not options:
        return
    unknown = options.keys() - ApiParams.__annotations__.keys()
    if unknown:
        # What Python itself says of an unexpected keyword.
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    if options.get("debug"):
        raise InvalidArgumentException("debug=True is not supported: start a pool with `raybox up` instead")
    if options.get("http_version") not in (None, "1.1", "2"):
        raise InvalidArgumentException(f"http_version must be '1.1' or '2', got {options.get('http_version')!r}")
