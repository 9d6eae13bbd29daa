"""Work inside another network namespace: links, addresses, rules, and connections to cut. Linux, needs root.

A thread enters a namespace and never comes back; what it opened stays in that namespace and is of use to everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from raybox_actors.errors import InternalError

Result = TypeVar("Result")

CLONE_NEWNET = 0x40000000
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_DUMP = 0x1, 0x4, 0x400, 0x200, 0x300
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
IFLA_MTU, IFLA_NET_NS_FD, IFA_ADDRESS, IFA_LOCAL, RTA_OIF, RTA_GATEWAY = 4, 28, 1, 2, 4, 5
IFF_UP = 1
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 4, 20, 21
#: All states of TCP but LISTEN and TIME_WAIT; for UDP, those that are connected.
CONNECTED = ~(1 << 10 | 1 << 6) & 0xFFF

_MESSAGE = struct.Struct("=IHHII")
_DIAG_REQUEST = struct.Struct("=BBBBI48s")
#: A rule set of the largest size takes nft a tenth of this.
NFT_LIMIT_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


async def in_namespace(
    namespace: int, work: Callable[[], Result], discard: Callable[[Result], object] = lambda _result: None
) -> Result:
    """`work()` on a thread of its own inside the network namespace of this descriptor; raises what it raises.

    Cancellation does not stop `work`; nobody waits for it then, and `discard` gets what it returned, if that is to be
    released. It must not start what shall live longer than it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    own = os.dup(namespace)

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            if error is None:
                discard(result)  # type: ignore[arg-type]
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            enter(own)
            result = work()
        except BaseException as error:
            failure = error
        finally:
            os.close(own)
        with contextlib.suppress(RuntimeError):  # the loop has gone
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="network-namespace", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        if future.done() and not future.cancelled() and future.exception() is None:
            discard(future.result())
        raise


def enter(namespace: int) -> None:
    """Put the calling thread into a network namespace, for the rest of its life."""
    if _libc.setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def nft_path() -> str | None:
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run_nft(text: str) -> None:
    """`nft -f -` in the calling thread's namespace: all of `text` or nothing. Blocks. Raises InternalError."""
    path = nft_path()
    if path is None:
        raise InternalError("nft is missing: install the package nftables")
    try:
        done = subprocess.run(
            [path, "-f", "-"], input=text.encode(), capture_output=True, timeout=NFT_LIMIT_S, env={}, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InternalError(f"the network rules could not be set: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise InternalError(f"the network rules could not be set: {said[:2000]}")


# ---- links and routes ----


def move_link(name: str, namespace: int) -> None:
    """From the calling thread's namespace into another one."""
    body = _link(socket.if_nametoindex(name)) + _attribute(IFLA_NET_NS_FD, struct.pack("=I", namespace))
    with _netlink(socket.NETLINK_ROUTE) as channel:
        _ask(channel, RTM_NEWLINK, NLM_F_ACK, body)


def configure_link(name: str, address: IPv4Address, prefix: int, gateway: IPv4Address, mtu: int) -> None:
    """Up, with one address and the default route, without IPv6, in the calling thread's namespace."""
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    index = socket.if_nametoindex(name)
    up = _link(index, IFF_UP) + _attribute(IFLA_MTU, struct.pack("=I", mtu))
    own = _attribute(IFA_LOCAL, address.packed) + _attribute(IFA_ADDRESS, address.packed)
    route = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0
    )
    route += _attribute(RTA_GATEWAY, gateway.packed) + _attribute(RTA_OIF, struct.pack("=I", index))
    make = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    with _netlink(socket.NETLINK_ROUTE) as channel:
        _ask(channel, RTM_NEWLINK, NLM_F_ACK, up)
        _ask(channel, RTM_NEWADDR, make, struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, index) + own)
        _ask(channel, RTM_NEWROUTE, make, route)


def _link(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index, flags, flags)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _netlink(protocol: int) -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    channel.settimeout(5.0)
    channel.bind((0, 0))
    return channel


def _ask(channel: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """One request; raises OSError with the kernel's number if it is refused."""
    channel.send(_MESSAGE.pack(_MESSAGE.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body)
    for answer, payload in _messages(channel.recv(65_536)):
        if answer == NLMSG_ERROR and (number := -struct.unpack_from("=i", payload)[0]):
            raise OSError(number, os.strerror(number))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _MESSAGE.size:
        length, kind, _, _, _ = _MESSAGE.unpack_from(data)
        yield kind, data[_MESSAGE.size : length]
        data = data[(length + 3) & ~3 :]


# ---- connections ----


def cut_connections(permits: Callable[[IPv4Address], bool]) -> int:
    """Destroy the TCP and UDP sockets of the calling thread's namespace that are connected to an address which is not
    permitted; whoever reads from one is told at once. Returns how many; where the kernel cannot do it, 0, and the
    rules alone hold them up."""
    cut = 0
    with _netlink(NETLINK_SOCK_DIAG) as channel:
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                for identity in _connected(channel, family, protocol):
                    peer = _peer(family, identity)
                    if peer is None or peer.is_loopback or permits(peer):
                        continue
                    try:
                        _ask(channel, SOCK_DESTROY, NLM_F_ACK, _diag(family, protocol, identity))
                        cut += 1
                    except OSError as error:
                        if error.errno == errno.EOPNOTSUPP:
                            return cut
    return cut


def _diag(family: int, protocol: int, identity: bytes = b"\0" * 48) -> bytes:
    return _DIAG_REQUEST.pack(family, protocol, 0, 0, CONNECTED, identity)


def _connected(channel: socket.socket, family: int, protocol: int) -> list[bytes]:
    """The kernel's identities of the sockets that have a peer."""
    body = _diag(family, protocol)
    channel.send(_MESSAGE.pack(_MESSAGE.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body)
    found: list[bytes] = []
    while True:
        for kind, payload in _messages(channel.recv(1 << 20)):
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                return found
            if kind == SOCK_DIAG_BY_FAMILY and any(payload[6:8]):  # the peer's port
                found.append(payload[4:52])


def _peer(family: int, identity: bytes) -> IPv4Address | None:
    raw = identity[20:36]
    if family == socket.AF_INET:
        return IPv4Address(raw[:4])
    return ipaddress.IPv6Address(raw).ipv4_mapped


# ---- what the node is ----


def node_networks() -> tuple[list[IPv4Address], list[IPv4Network]]:
    """The addresses of the calling thread's namespace, and the networks it is connected to without a router."""
    own = Path("/proc/thread-self/net")
    return parse_addresses((own / "fib_trie").read_text()), parse_networks((own / "route").read_text())


def parse_addresses(fib_trie: str) -> list[IPv4Address]:
    """Of /proc/net/fib_trie: a leaf, and below it what it is."""
    found: dict[IPv4Address, None] = {}
    leaf = ""
    for line in fib_trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found[IPv4Address(leaf)] = None
    return list(found)


def parse_networks(route: str) -> list[IPv4Network]:
    """Of /proc/net/route; hexadecimal in the machine's byte order, which is little-endian wherever Ray runs."""
    found = []
    for line in route.splitlines()[1:]:
        _, destination, gateway, _, _, _, _, mask, *_ = line.split()
        if int(mask, 16) and not int(gateway, 16):
            address = IPv4Address(int(destination, 16).to_bytes(4, "little"))
            found.append(IPv4Network(f"{address}/{IPv4Address(int(mask, 16).to_bytes(4, 'little'))}"))
    return found
