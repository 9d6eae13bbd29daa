"""What a sandbox may reach: the contract's network fields to a policy, and a policy to nftables text. Pure.

Allow beats deny, and what the pool always denies beats both (contract 2.3). IPv6 is off inside, so that denying an
IPv6 range is true without doing anything, and allowing one is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from raybox_actors.errors import BadRequest

#: Bounds of one request. The reference names the last; ours for the others are far above what people write.
MAX_CIDRS = 512
MAX_DOMAINS = 256
MAX_DNS_SERVERS = 10
MAX_ENTRY_CHARS = 300
#: How many bad entries or names an error quotes in full.
QUOTED_CHARS = 80

ALL = IPv4Network("0.0.0.0/0")
#: In a pool's list of denied ranges: the networks that the node is itself connected to.
NODE_NETWORKS = "node-networks"
#: The network between a sandbox and its user-mode stack, out of the range for benchmarks, which nobody routes.
STACK_NETWORK = IPv4Network("198.19.255.0/24")
STACK_GATEWAY = STACK_NETWORK[2]
SANDBOX_ADDRESS = STACK_NETWORK[100]
#: Where a sandbox finds its resolver; of its own loopback.
RESOLVER_ADDRESS = IPv4Address("127.0.0.53")

#: Denied unless the operator's own list leaves them out.
DEFAULT_DENIED: tuple[str, ...] = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",  # carriers, and pods of some clusters; one cloud's metadata
    "192.0.0.0/24",  # protocol assignments; another cloud's metadata
    "198.18.0.0/15",  # benchmarks
    "168.63.129.16/32",  # a cloud's host agent, at a public address
    NODE_NETWORKS,
)
#: Denied whatever the operator says: this host, link-local with the metadata service, multicast, reserved.
NEVER: tuple[IPv4Network, ...] = tuple(
    IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", str(STACK_NETWORK))
)

TABLE = "raybox"
#: The longest time to live that a sandbox is told of an address; its own caches forget it before the rules do.
MAX_TTL_S = 240
#: How long an address of an allowed name stays open after it was resolved or last used.
ADDRESS_HOLD_S = 300
#: Addresses of allowed names that are open at once.
MAX_RESOLVED = 4096
#: Questions to the resolver; further ones are dropped in the sandbox's own kernel path, and cost the pool nothing.
QUERIES_PER_SECOND, QUERIES_BURST = 200, 400

_IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}(/\d{1,2})?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(\*\.)?(?:{_LABEL}\.)*{_LABEL}")
_NUMBERS = re.compile(r"[0-9./:]+")


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """What a caller asked for, checked. `internet` is the contract's allow_internet_access."""

    internet: bool = True
    allow: tuple[IPv4Network, ...] = ()
    domains: tuple[str, ...] = ()  #: lower case; "*.example.org" is every name below example.org, and not itself
    deny: tuple[IPv4Network, ...] = ()
    dns_servers: tuple[IPv4Address, ...] = ()

    @property
    def denies_all(self) -> bool:
        return not self.internet or ALL in ipaddress.collapse_addresses(self.deny)

    @property
    def wants_network(self) -> bool:
        """It names something that must be reachable, which a sandbox without network cannot be given."""
        return bool(self.allow or self.domains)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What holds for one sandbox. `never` comes first, then `allow` and the names, then `deny`; else it may."""

    never: tuple[IPv4Network, ...] = NEVER
    allow: tuple[IPv4Network, ...] = ()
    domains: tuple[str, ...] = ()
    deny: tuple[IPv4Network, ...] = ()

    def permits(self, address: IPv4Address, resolved: Collection[IPv4Address] = ()) -> bool:
        """Whether packets may go there. resolved: addresses that the allowed names have at the moment."""
        if _within(address, self.never):
            return False
        return _within(address, self.allow) or address in resolved or not _within(address, self.deny)

    @property
    def resolves_any_name(self) -> bool:
        """Names are no limit where addresses are none either."""
        return ALL not in self.deny

    def permits_name(self, name: str) -> bool:
        """name: lower case, without a dot at the end."""
        return self.resolves_any_name or any(_is_of(name, domain) for domain in self.domains)


def _within(address: IPv4Address, networks: Iterable[IPv4Network]) -> bool:
    return any(address in network for network in networks)


def _is_of(name: str, domain: str) -> bool:
    return name.endswith(domain[1:]) if domain.startswith("*.") else name == domain


# ---- from the contract's fields ----


def parse_request(fields: Mapping[str, object], allow_internet_access: bool = True) -> NetworkRequest:
    """`allowOut`, `denyOut` and `dnsServers` of the contract's `network`; other fields are the caller's to judge.

    Raises BadRequest, which names the field and what is wrong with the first bad entry.
    """
    allow: list[IPv4Network] = []
    domains: list[str] = []
    for text in _texts(fields, "allowOut", MAX_CIDRS + MAX_DOMAINS):
        if _NUMBERS.fullmatch(text) or ":" in text:
            network = _network("allowOut", text)
            if network is None:
                raise BadRequest(f"network.allowOut: {text[:QUOTED_CHARS]!r}: sandboxes have no IPv6")
            allow.append(network)
        else:
            domains.append(_domain(text))
    for what, entries, most in (("addresses", allow, MAX_CIDRS), ("domains", domains, MAX_DOMAINS)):
        if len(entries) > most:
            raise BadRequest(f"network.allowOut has more than {most} {what}")
    deny = [_network("denyOut", text) for text in _texts(fields, "denyOut", MAX_CIDRS)]
    request = NetworkRequest(
        internet=allow_internet_access,
        allow=tuple(allow),
        domains=tuple(dict.fromkeys(domains)),
        deny=tuple(network for network in deny if network is not None),
        dns_servers=_dns_servers(fields),
    )
    if request.domains and not request.denies_all:
        raise BadRequest(
            f"network.allowOut: the domain {request.domains[0]!r} limits nothing unless all other traffic is denied; "
            f"add {str(ALL)!r} to denyOut"
        )
    return request


def _texts(fields: Mapping[str, object], name: str, most: int) -> list[str]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"network.{name} must be a list of strings")
    if len(value) > most:
        raise BadRequest(f"network.{name} has more than {most} entries")
    for entry in value:
        if not isinstance(entry, str) or not 0 < len(entry) <= MAX_ENTRY_CHARS:
            raise BadRequest(f"network.{name} must be a list of strings of 1 to {MAX_ENTRY_CHARS} characters")
    return list(value)


def _network(name: str, text: str) -> IPv4Network | None:
    """None for an IPv6 one. Bits below the prefix do not matter, as in the reference."""
    try:
        if _IPV4.fullmatch(text):
            return IPv4Network(text, strict=False)
        if ":" in text and "%" not in text:
            ipaddress.IPv6Network(text, strict=False)
            return None
    except ValueError:
        pass
    raise BadRequest(f"network.{name}: {text[:QUOTED_CHARS]!r} is not an IP address or a CIDR")


def _domain(text: str) -> str:
    name = text.lower().removesuffix(".")
    # A last label of digits alone is an address to whoever resolves it.
    if len(name) > 253 or not _DOMAIN.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise BadRequest(
            f"network.allowOut: {text[:QUOTED_CHARS]!r} is not an IP address, a CIDR or a domain name "
            "(ASCII; '*.' may come first)"
        )
    return name


def _dns_servers(fields: Mapping[str, object]) -> tuple[IPv4Address, ...]:
    found = []
    for text in _texts(fields, "dnsServers", MAX_DNS_SERVERS):
        try:
            found.append(IPv4Address(text))
        except ValueError:
            raise BadRequest(f"network.dnsServers: {text[:QUOTED_CHARS]!r} is not an IPv4 address") from None
    return tuple(found)


# ---- to a policy ----


def policy_of(request: NetworkRequest, never: Sequence[IPv4Network]) -> NetworkPolicy:
    """never: what `always_denied` says. Name servers that were asked for are open where names are what is allowed."""
    servers = tuple(IPv4Network(address) for address in request.dns_servers) if request.domains else ()
    return NetworkPolicy(
        never=tuple(never),
        allow=_collapsed([*request.allow, *servers]),
        domains=request.domains,
        deny=(ALL,) if request.denies_all else _collapsed(request.deny),
    )


def always_denied(
    denied: Sequence[str], node_addresses: Iterable[IPv4Address], node_networks: Iterable[IPv4Network]
) -> tuple[IPv4Network, ...]:
    """The ranges that no sandbox of a node reaches. denied: as `check_denied` returns it."""
    ranges = [*NEVER, *(IPv4Network(address) for address in node_addresses)]
    for text in denied:
        ranges += node_networks if text == NODE_NETWORKS else [IPv4Network(text)]
    return _collapsed(ranges)


def check_denied(denied: Iterable[str]) -> tuple[str, ...]:
    """An operator's list of denied ranges, in its canonical form. Raises ValueError for what is none; of IPv6 ranges
    there is nothing to deny."""
    found = []
    for text in denied:
        if text == NODE_NETWORKS:
            found.append(text)
            continue
        try:
            network = IPv4Network(text, strict=False) if _IPV4.fullmatch(text) else None
        except ValueError:
            network = None
        if network is None:
            raise ValueError(f"{text[:QUOTED_CHARS]!r} is not an IPv4 CIDR or {NODE_NETWORKS!r}")
        found.append(str(network))
    return tuple(found)


def _collapsed(networks: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    return tuple(ipaddress.collapse_addresses(networks))


# ---- to nftables ----


def ruleset(policy: NetworkPolicy, resolved: Iterable[IPv4Address] = ()) -> str:
    """Text for `nft -f`: one transaction that replaces whatever rules the namespace had.

    resolved: addresses that are open because of an allowed name. Verdicts are per packet and know no connections, so
    that a new policy holds for old connections, too; an address that is in use stays open while it is.
    """
    sets, out, back = [], [], []
    for name, networks, verdict in (
        ("never", policy.never, "goto refuse"),
        ("allowed", policy.allow, "accept"),
        ("denied", policy.deny, "goto refuse"),
    ):
        if name == "denied" and policy.domains:
            sets.append(_resolved_set(resolved))
            out.append(f"ip daddr @resolved update @resolved {{ ip daddr timeout {ADDRESS_HOLD_S}s }} accept")
            back.append("ip saddr @resolved accept")
        inward = verdict.replace("goto refuse", "drop")
        if ALL in networks:  # an interval without ends is more than some versions of nft can hold
            out.append(verdict)
            back.append(inward)
        elif networks:
            sets.append(_interval_set(name, networks))
            out.append(f"ip daddr @{name} {verdict}")
            back.append(f"ip saddr @{name} {inward}")
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{", *sets]
    lines += [
        "chain refuse {",
        # A connection of before is ended; a new one is told that it is the rules, and no server that refuses.
        "tcp flags & (syn | ack) != syn reject with tcp reset",
        "reject with icmpx admin-prohibited",
        "}",
        "chain output {",
        "type filter hook output priority filter; policy drop;",
        f"ip daddr {RESOLVER_ADDRESS} meta l4proto {{ tcp, udp }} th dport 53 "
        f"limit rate over {QUERIES_PER_SECOND}/second burst {QUERIES_BURST} packets drop",
        'oifname "lo" accept',
        "meta nfproto != ipv4 drop",
        "meta l4proto != { tcp, udp, icmp } drop",
        *out,
        "accept",
        "}",
        "chain input {",
        "type filter hook input priority filter; policy drop;",
        'iifname "lo" accept',
        "meta nfproto != ipv4 drop",
        "meta l4proto != { tcp, udp, icmp } drop",
        f"ip saddr {STACK_GATEWAY} icmp type destination-unreachable accept",
        *back,
        "accept",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _interval_set(name: str, networks: Iterable[IPv4Network]) -> str:
    elements = ", ".join(map(str, _collapsed(networks)))
    return f"set {name} {{ type ipv4_addr; flags interval; elements = {{ {elements} }} }}"


def _resolved_set(resolved: Iterable[IPv4Address]) -> str:
    elements = ", ".join(f"{address} timeout {ADDRESS_HOLD_S}s" for address in list(resolved)[:MAX_RESOLVED])
    given = f" elements = {{ {elements} }}" if elements else ""
    return f"set resolved {{ type ipv4_addr; flags dynamic,timeout; size {MAX_RESOLVED};{given} }}"


def grant(addresses: Iterable[IPv4Address]) -> str:
    """Text for `nft -f` that opens these addresses of allowed names anew, whether they are open or not."""
    plain = list(addresses)
    timed = ", ".join(f"{address} timeout {ADDRESS_HOLD_S}s" for address in plain)
    named = ", ".join(map(str, plain))
    where = f"element inet {TABLE} resolved"
    # Adding what is there would leave its timeout as it is.
    return f"add {where} {{ {timed} }}\ndelete {where} {{ {named} }}\nadd {where} {{ {timed} }}\n"
