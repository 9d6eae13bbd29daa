"""Network requests to policies to rules; the kernel that has loaded the rules is asked for its verdicts."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raybox_actors.errors import BadRequest
from raybox_actors.network import netlink
from raybox_actors.network.egress import egress_available
from raybox_actors.network.rules import (
    ALL,
    DEFAULT_DENIED,
    MAX_CIDRS,
    MAX_DNS_SERVERS,
    MAX_DOMAINS,
    MAX_ENTRY_CHARS,
    MAX_RESOLVED,
    NEVER,
    NODE_NETWORKS,
    TABLE,
    NetworkPolicy,
    always_denied,
    check_denied,
    grant,
    parse_request,
    policy_of,
    ruleset,
)
from tests.support.wait import wait_until

Result = TypeVar("Result")

# ---- requests ----


def test_the_fields_of_the_contract_are_read() -> None:
    request = parse_request(
        {
            "allowOut": ["1.1.1.1", "8.8.8.9/24", "Api.Example.org.", "*.example.net"],
            "denyOut": ["0.0.0.0/0", "2001:db8::/32"],
            "dnsServers": ["9.9.9.9"],
        }
    )
    assert request.allow == (IPv4Network("1.1.1.1/32"), IPv4Network("8.8.8.0/24"))
    assert request.domains == ("api.example.org", "*.example.net")
    assert request.deny == (ALL,)
    assert request.dns_servers == (IPv4Address("9.9.9.9"),)
    assert request.denies_all
    assert request.wants_network


@pytest.mark.parametrize("fields", [{}, {"allowOut": None}, {"allowOut": [], "denyOut": [], "dnsServers": []}])
def test_what_says_nothing_allows_the_internet(fields: dict[str, object]) -> None:
    request = parse_request(fields)
    assert not request.denies_all
    assert not request.wants_network
    assert policy_of(request, NEVER).permits(IPv4Address("1.1.1.1"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"allowOut": "1.1.1.1"}, "allowOut must be a list"),
        ({"allowOut": [1]}, "allowOut must be a list of strings"),
        ({"denyOut": [""]}, "1 to 300 characters"),
        ({"denyOut": ["example.org"]}, "denyOut: 'example.org' is not an IP address"),
        ({"denyOut": ["1.1.1.1/33"]}, "denyOut"),
        ({"denyOut": ["1.1.1.1/255.0.0.0"]}, "denyOut"),
        ({"denyOut": ["fe80::1%eth0"]}, "denyOut"),
        ({"allowOut": ["1.1.1"]}, "allowOut: '1.1.1' is not an IP"),
        ({"allowOut": ["1.1.1.256"]}, "allowOut"),
        ({"allowOut": ["2001:db8::1"]}, "have no IPv6"),
        ({"allowOut": ["::/0"]}, "have no IPv6"),
        ({"allowOut": ["a.example"]}, "add '0.0.0.0/0' to denyOut"),
        ({"allowOut": ["b\u00fccher.example"], "denyOut": ["0.0.0.0/0"]}, "not an IP address, a CIDR or a domain"),
        ({"allowOut": ["*"], "denyOut": ["0.0.0.0/0"]}, "domain"),
        ({"allowOut": ["a.*.example"], "denyOut": ["0.0.0.0/0"]}, "domain"),
        ({"allowOut": ["-a.example"], "denyOut": ["0.0.0.0/0"]}, "domain"),
        ({"allowOut": ["a.example }; flush ruleset"], "denyOut": ["0.0.0.0/0"]}, "domain"),
        ({"allowOut": ["a.example\n"], "denyOut": ["0.0.0.0/0"]}, "domain"),
        ({"allowOut": ["a" * 64 + ".example"], "denyOut": ["0.0.0.0/0"]}, "domain"),
        ({"allowOut": [".".join(["a" * 50] * 5) + ".xx"], "denyOut": ["0.0.0.0/0"]}, "domain"),
        ({"dnsServers": ["dns.example"]}, "dnsServers"),
        ({"dnsServers": ["2001:db8::1"]}, "dnsServers"),
        ({"dnsServers": ["9.9.9.9"] * (MAX_DNS_SERVERS + 1)}, "more than 10"),
        ({"allowOut": ["1.1.1.1"] * (MAX_CIDRS + 1)}, "more than 512 addresses"),
        ({"denyOut": ["1.1.1.1"] * (MAX_CIDRS + 1)}, "more than 512"),
        ({"denyOut": ["0.0.0.0/0"], "allowOut": [f"d{n}.xx" for n in range(MAX_DOMAINS + 1)]}, "more than 256 domains"),
        ({"denyOut": ["1" * (MAX_ENTRY_CHARS + 1)]}, "300 characters"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_field(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse_request(fields)
    assert words in str(raised.value)
    assert str(raised.value).startswith("network.")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("deny", [["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"]])
def test_domains_need_all_else_denied_however_that_is_said(deny: list[str]) -> None:
    assert parse_request({"allowOut": ["a.example"], "denyOut": deny}).domains == ("a.example",)
    assert parse_request({"allowOut": ["a.example"]}, allow_internet_access=False).domains == ("a.example",)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["allowOut", "denyOut", "dnsServers"]), st.lists(st.text() | st.integers())))
def test_parsing_raises_nothing_but_bad_request(fields: dict[str, object]) -> None:
    try:
        policy = policy_of(parse_request(fields), NEVER)
    except BadRequest:
        return
    assert ruleset(policy).isascii()


def test_an_operator_s_list_is_checked_and_put_in_order() -> None:
    assert check_denied(["10.1.2.3/8", NODE_NETWORKS]) == ("10.0.0.0/8", NODE_NETWORKS)
    assert check_denied(DEFAULT_DENIED) == DEFAULT_DENIED
    for text in ("fd00::/8", "example.org", "10.0.0.0/33", ""):
        with pytest.raises(ValueError, match="not an IPv4 CIDR"):
            check_denied([text])


def test_the_node_s_addresses_are_always_denied_and_its_networks_by_name() -> None:
    node = [IPv4Address("203.0.113.1")], [IPv4Network("203.0.113.0/24")]
    for denied, neighbour in ((DEFAULT_DENIED, False), ((), True)):
        policy = policy_of(parse_request({"allowOut": ["0.0.0.0/0"]}), always_denied(denied, *node))
        assert not policy.permits(IPv4Address("203.0.113.1"))
        assert policy.permits(IPv4Address("203.0.113.2")) is neighbour
        for never in ("127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.19.255.2"):
            assert not policy.permits(IPv4Address(never)), never


def test_names() -> None:
    policy = policy_of(parse_request({"allowOut": ["a.example", "*.b.example"]}, False), NEVER)
    assert [policy.permits_name(name) for name in ("a.example", "x.b.example", "x.y.b.example")] == [True] * 3
    assert [policy.permits_name(name) for name in ("b.example", "xb.example", "x.a.example", "example", "")] == [
        False
    ] * 5
    assert policy_of(parse_request({"denyOut": ["1.0.0.0/8"]}), NEVER).permits_name("any.example")


# ---- rules, as the kernel sees them ----


class Kernel:
    """A network namespace with a default route to nowhere; what the rules let through gets lost there."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{self.process.pid}/ns/net").readlink() != own, 5.0)
        self.namespace = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY)
        for words in (
            "link set lo up",
            "link add v0 type veth peer name v1",
            "addr add 198.51.100.1/32 dev v0",
            "link set v1 up",
            "link set v0 up arp off",
            "route add default dev v0",
            "-6 addr add 2001:db8::1/64 dev v0 nodad",
        ):
            subprocess.run(["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "ip", *words.split()], check=True)

    def inside(self, work: Callable[[], Result]) -> Result:
        found: list[Any] = []

        def run() -> None:
            netlink.enter(self.namespace)
            found.append(work())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert found, "see above"
        result: Result = found[0]
        return result

    def verdicts(self, addresses: list[IPv4Address]) -> list[bool]:
        def ask() -> list[bool]:
            passed = []
            for address in addresses:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    try:
                        sock.sendto(b"x", (str(address), 9))
                        passed.append(True)
                    except PermissionError:
                        passed.append(False)
            return passed

        return self.inside(ask)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    if reason := egress_available():
        pytest.skip(reason)
    made = Kernel()
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.namespace)


#: Few different bits, so that ranges nest, touch and hit.
addresses = st.builds(
    lambda parts: IPv4Address(".".join(map(str, parts))),
    st.tuples(st.sampled_from([1, 8, 10, 93, 172, 192]), *[st.sampled_from([0, 1, 16, 128, 168, 255])] * 3),
)
networks = st.builds(
    lambda address, length: f"{address}/{length}", addresses, st.sampled_from([0, 1, 4, 8, 12, 16, 20, 24, 31, 32])
)


def in_words_of_the_contract(
    address: IPv4Address, never: list[str], allow: list[str], resolved: set[IPv4Address], deny: list[str]
) -> bool:
    """Written once more, as plainly as can be: allow beats deny, and what is always denied beats both."""

    def matches(ranges: list[str]) -> bool:
        for text in ranges:
            base, _, length = text.partition("/")
            shift = 32 - int(length)
            if int(IPv4Address(base)) >> shift == int(address) >> shift:
                return True
        return False

    if matches(never):
        return False
    if matches(allow) or address in resolved:
        return True
    return not matches(deny)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    allow=st.lists(networks, max_size=8),
    deny=st.lists(networks, max_size=8),
    denied=st.lists(networks.filter(lambda text: not text.endswith("/0")), max_size=4),
    internet=st.booleans(),
    resolved=st.sets(addresses, max_size=5),
    asked=st.lists(addresses, min_size=20, max_size=40, unique=True),
)
def test_the_kernel_s_verdicts_are_those_of_the_contract(
    kernel: Kernel,
    allow: list[str],
    deny: list[str],
    denied: list[str],
    internet: bool,
    resolved: set[IPv4Address],
    asked: list[IPv4Address],
) -> None:
    request = parse_request({"allowOut": allow, "denyOut": deny}, internet)
    domains = ("a.example",) if request.denies_all else ()
    policy = policy_of(request, always_denied(check_denied(denied), [], []))
    policy = NetworkPolicy(policy.never, policy.allow, domains, policy.deny)
    open_names = resolved if domains else set()
    never = [*denied, *map(str, NEVER)]
    expected = [
        in_words_of_the_contract(address, never, allow, open_names, [*deny, *([] if internet else ["0.0.0.0/0"])])
        for address in asked
    ]
    assert [policy.permits(address, open_names) for address in asked] == expected
    kernel.inside(lambda: netlink.run_nft(ruleset(policy, open_names)))
    assert kernel.verdicts(asked) == expected


def test_no_rule_lets_ipv6_out_but_loopback(kernel: Kernel) -> None:
    def send(address: str) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (address, 9))

    def ask() -> list[bool]:
        passed = []
        for address in ("2001:db8::2", "::1"):
            try:
                send(address)
                passed.append(True)
            except PermissionError:
                passed.append(False)
        return passed

    kernel.inside(lambda: netlink.run_nft(f"table inet {TABLE}\ndelete table inet {TABLE}\n"))
    assert kernel.inside(ask) == [True, True]
    for fields in ({}, {"allowOut": ["0.0.0.0/0"]}):
        policy = policy_of(parse_request(fields), NEVER)
        kernel.inside(lambda policy=policy: netlink.run_nft(ruleset(policy)))  # type: ignore[misc]
        assert kernel.inside(ask) == [False, True]


def test_the_largest_policy_can_be_loaded(kernel: Kernel) -> None:
    entries = [f"{1 + n // 256}.{n % 256}.0.0/17" for n in range(MAX_CIDRS)]
    request = parse_request({"allowOut": [*entries, *(f"d{n}.xx" for n in range(MAX_DOMAINS))]}, False)
    open_names = [IPv4Address("93.0.0.0") + n for n in range(MAX_RESOLVED + 1)]
    kernel.inside(lambda: netlink.run_nft(ruleset(policy_of(request, NEVER), open_names)))
    asked = [IPv4Address("1.255.127.255"), IPv4Address("1.255.128.0"), open_names[-2], open_names[-1]]
    assert kernel.verdicts(asked) == [True, False, True, False]


def test_an_address_of_an_allowed_name_can_be_opened_again_and_again(kernel: Kernel) -> None:
    policy = policy_of(parse_request({"allowOut": ["a.example"]}, False), NEVER)
    address = IPv4Address("93.184.216.34")
    kernel.inside(lambda: netlink.run_nft(ruleset(policy)))
    assert kernel.verdicts([address]) == [False]
    for _ in range(2):
        kernel.inside(lambda: netlink.run_nft(grant([address])))
        assert kernel.verdicts([address]) == [True]


# ---- what the node is ----

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.2
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.0.2.2
        /32 host LOCAL
"""
ROUTE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
"""


def test_the_node_s_addresses_and_networks_are_read() -> None:
    assert netlink.parse_addresses(FIB_TRIE) == [IPv4Address("192.0.2.2"), IPv4Address("127.0.0.1")]
    assert netlink.parse_networks(ROUTE) == [IPv4Network("192.0.2.0/24")]
    own, _ = netlink.node_networks()
    assert IPv4Address("127.0.0.1") in own
