"""What a sandbox may reach, and as whom: options of calls -> parts of their bodies, without I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ._errors import InvalidArgumentException

ALL_TRAFFIC = "0.0.0.0/0"

#: What `update_network` can change.
UPDATABLE = frozenset({"allow_internet_access", "allow_out", "deny_out", "dns_servers", "egress_proxy", "rules"})


@dataclass(frozen=True)
class SandboxNetworkSelectorContext:
    """What `network["allow_out"]` and `["deny_out"]` are called with when they are functions."""

    all_traffic: str
    rules: Mapping[str, Any]


def iam_tokens(iam: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    tokens = {}
    for name, token in ((iam or {}).get("tokens") or {}).items():
        if not isinstance(name, str) or not name or re.search(r"[{}\x00-\x1f\x7f-\x9f]", name):
            raise InvalidArgumentException(f"iam: {name!r} cannot be the name of a token")
        try:
            tokens[name] = {"audience": token["audience"], "tokenType": token["token_type"]}
        except (KeyError, TypeError) as error:
            raise InvalidArgumentException(f"iam: token {name!r} needs 'audience' and 'token_type'") from error
    return tokens


class _Placeholders(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise InvalidArgumentException(f"network: no iam token {name!r} is registered; there are {sorted(self)}")


@dataclass(frozen=True)
class _Iam:
    tokens: Mapping[str, str]


@dataclass(frozen=True)
class SandboxNetworkTransformContext:
    """What a rule's `transform` is called with when it is a function: placeholders that the egress proxy fills."""

    iam: _Iam


def network_body(network: Mapping[str, Any], tokens: Iterable[str]) -> dict[str, Any]:
    rules = network.get("rules") or {}
    selector_context = SandboxNetworkSelectorContext(all_traffic=ALL_TRAFFIC, rules=rules)
    placeholders = _Placeholders({name: f"${{e2b.identity.tokens.{name}}}" for name in tokens})
    transform_context = SandboxNetworkTransformContext(_Iam(placeholders))
    body: dict[str, Any] = {}
    for name, wire in (("allow_out", "allowOut"), ("deny_out", "denyOut")):
        chosen = network.get(name)
        if chosen is not None:
            body[wire] = list(chosen(selector_context) if callable(chosen) else chosen)
    for name, wire in (("dns_servers", "dnsServers"), ("https_ports", "httpsPorts")):
        if network.get(name) is not None:
            body[wire] = list(network[name])
    for name, wire in (("allow_public_traffic", "allowPublicTraffic"), ("mask_request_host", "maskRequestHost")):
        if network.get(name) is not None:
            body[wire] = network[name]
    if network.get("egress_proxy") is not None:
        body["egressProxy"] = _egress_proxy(network["egress_proxy"])
    if network.get("rules") is not None:
        body["rules"] = {host: [_rule(rule, transform_context) for rule in chain] for host, chain in rules.items()}
    return body


def _rule(rule: Mapping[str, Any], context: SandboxNetworkTransformContext) -> dict[str, Any]:
    transform: Mapping[str, Any] | Callable[[SandboxNetworkTransformContext], Any] | None = rule.get("transform")
    if transform is None:
        return {}
    if callable(transform):
        transform = transform(context)
    if not isinstance(transform, Mapping):
        raise InvalidArgumentException(f"network: a rule's transform must be or return a dict, got {transform!r}")
    headers = transform.get("headers")
    return {"transform": {"headers": dict(headers)} if headers else {}}


def _egress_proxy(proxy: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(proxy, Mapping) or not isinstance(proxy.get("address"), str):
        raise InvalidArgumentException("network: egress_proxy needs an 'address' such as 'proxy.example.com:1080'")
    body: dict[str, Any] = {"address": proxy["address"]}
    body.update({name: proxy[name] for name in ("username", "password") if proxy.get(name) is not None})
    tls = proxy.get("tls")
    if isinstance(tls, Mapping):
        names = (("server_name", "serverName"), ("ca_cert", "caCert"))
        body["tls"] = {"enabled": True, **{wire: tls[name] for name, wire in names if tls.get(name) is not None}}
    elif tls:
        body["tls"] = {"enabled": True}
    return body


def network_update_body(network: Mapping[str, Any]) -> dict[str, Any]:
    """The whole egress configuration that is to replace the one there is; what is not named is cleared."""
    unknown = set(network) - UPDATABLE
    if unknown:
        raise InvalidArgumentException(f"network: {min(unknown)!r} cannot be changed; {sorted(UPDATABLE)} can")
    body = network_body(network, ())
    if network.get("allow_internet_access") is not None:
        body["allow_internet_access"] = network["allow_internet_access"]
    return body
