"""What a sandbox can reach, and that nobody inside can change it. No packet leaves the machine (network_world.py)."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raybox_actors.errors import BadRequest, InternalError
from raybox_actors.isolation.policy import WallsPolicy, layers_of
from raybox_actors.isolation.walls import write_skeleton
from raybox_actors.network import netlink
from raybox_actors.network.egress import Egress, EgressHost, EgressOptions, egress_available
from raybox_actors.network.rules import RESOLVER_ADDRESS, SANDBOX_ADDRESS, NetworkRequest, parse_request
from raybox_actors.network.stack import FIRST_STACK_ID, LINK
from raybox_actors.session import SessionOptions

# Fixtures: real sandboxes, and a guard that nothing of them is left.
from tests.actors.conftest import (  # noqa: F401
    anyio_backend,
    base_options,
    no_leaks,
    run_folder,
    session,
    template,
    zygote,
)
from tests.actors.driving import Driver, eventually
from tests.security.network_world import (
    DENIED_ALWAYS,
    METADATA,
    NAME_SERVER,
    NAMED,
    NODE,
    OTHER_PUBLIC,
    PUBLIC,
    THIRD_PUBLIC,
    World,
    world,
)
from tests.support.wait import wait_until

OpenSandbox = Callable[..., Awaitable["Sandbox"]]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(egress_available() is not None, reason=f"no egress here: {egress_available()}"),
]
_slots = itertools.count(1000)

#: Defined in every sandbox. Each returns what the other side said, or the name of the error.
PRELUDE = """
import errno, socket
def tcp(address, port=80, wait_s=10):
    try:
        with socket.create_connection((address, port), wait_s) as stream:
            return stream.makefile().readline().strip()
    except socket.gaierror as error:
        return f"gaierror {error.errno}"
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))
def udp(address, text="hello", wait_s=10):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(wait_s)
            sock.sendto(text.encode(), (address, 80))
            return sock.recv(4096).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))
"""
REFUSED = "EHOSTUNREACH"


@dataclasses.dataclass
class Sandbox:
    driver: Driver

    async def value(self, code: str) -> Any:
        cell = await self.driver.run(f"print(repr({code}))")
        assert cell.error is None, cell.events
        return ast.literal_eval(cell.text())

    async def tcp(self, *addresses: str) -> Any:
        found = await self.value(f"[tcp(address) for address in {addresses!r}]")
        return found[0] if len(addresses) == 1 else found

    async def update(self, **fields: object) -> None:
        internet = bool(fields.pop("internet", True))
        await self.driver.session.update_network(parse_request(fields, internet))

    @property
    def egress(self) -> Egress:
        egress = self.driver.session._egress
        assert egress is not None
        return egress


@pytest.fixture(scope="module")
def around() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
async def sandbox(
    session: Callable[..., Awaitable[Driver]],  # noqa: F811
    base_options: SessionOptions,  # noqa: F811
    run_folder: Path,  # noqa: F811
    around: World,
    others_served: None,
) -> AsyncIterator[OpenSandbox]:
    """Opens sandboxes with a network, whose way out leads into the world of the test."""
    hosts: list[EgressHost] = []
    skeleton = run_folder / "etc-egress"
    write_skeleton(skeleton, WallsPolicy(nameserver=str(RESOLVER_ADDRESS)))
    layers = layers_of(str(skeleton), base_options.policy.read_only)
    policy = dataclasses.replace(base_options.policy, layers=layers)

    async def make(options: EgressOptions | None = None, **fields: object) -> Sandbox:
        given = dataclasses.replace(options or EgressOptions(), dns=(NAME_SERVER,), outer_namespace=around.outer)
        hosts.append(EgressHost(next(_slots), given))
        made = Sandbox(await session(egress=hosts[-1], skeleton=skeleton, policy=policy))
        await made.driver.run(PRELUDE)
        if fields:
            await made.update(**fields)
        return made

    yield make
    for host in hosts:
        host.close()


# ---- none ----


async def test_without_a_network_there_is_loopback_and_no_route(session: Callable[..., Awaitable[Driver]]) -> None:  # noqa: F811
    inside = Sandbox(await session())
    await inside.driver.run(PRELUDE)
    assert await inside.value("[open('/proc/net/route').read().count(chr(10)), len(socket.if_nameindex())]") == [1, 1]
    assert await inside.tcp(PUBLIC) == "ENETUNREACH"
    await inside.driver.run("server = socket.create_server(('127.0.0.1', 0)); port = server.getsockname()[1]")
    assert await inside.value("socket.create_connection(('127.0.0.1', port)).getpeername()[1] == port") is True


async def test_where_there_is_no_network_none_can_be_asked_for(session: Callable[..., Awaitable[Driver]]) -> None:  # noqa: F811
    inside = await session()
    with pytest.raises(BadRequest, match="--network egress"):
        await inside.session.update_network(parse_request({"allowOut": [PUBLIC]}))
    await inside.session.update_network(parse_request({"denyOut": ["0.0.0.0/0"]}))  # that holds


# ---- egress ----


async def test_egress_reaches_the_internet_over_tcp_and_udp(sandbox: OpenSandbox, around: World) -> None:
    inside = await sandbox()
    assert await inside.tcp(PUBLIC, OTHER_PUBLIC) == [PUBLIC, OTHER_PUBLIC]
    assert await inside.value(f"udp({PUBLIC!r})") == f"{PUBLIC} hello"
    assert await inside.tcp("any.example") == THIRD_PUBLIC
    assert around.internet.reached("dns", "any.example")


async def test_loopback_inside_works_beside_egress(sandbox: OpenSandbox) -> None:
    inside = await sandbox(internet=False)
    for family, address in (("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")):
        await inside.driver.run(f"server = socket.create_server(({address!r}, 0), family=socket.{family})")
        code = f"socket.create_connection(({address!r}, server.getsockname()[1])).getpeername()[0]"
        assert await inside.value(code) == address


@pytest.mark.parametrize("address", DENIED_ALWAYS)
async def test_private_ranges_and_metadata_are_denied_even_where_they_are_allowed(
    sandbox: OpenSandbox, around: World, address: str
) -> None:
    inside = await sandbox()
    assert await inside.tcp(address) == REFUSED
    await inside.update(allowOut=["0.0.0.0/0", address, f"{address}/8"])
    assert await inside.tcp(address, PUBLIC) == [REFUSED, PUBLIC]
    assert "EPERM" in await inside.value(f"udp({address!r}, 'stray')")
    assert not around.internet.reached("tcp", address)
    assert not around.internet.reached("udp", address)


async def test_the_node_s_own_addresses_and_loopback_services_are_out_of_reach(
    sandbox: OpenSandbox, around: World
) -> None:
    inside = await sandbox(EgressOptions(denied=()), allowOut=["0.0.0.0/0"])
    assert await inside.tcp(NODE) == REFUSED
    # The stack's own network is where it would lead to the node's loopback.
    assert await inside.tcp("198.19.255.2", "198.19.255.3") == [REFUSED, REFUSED]
    assert await inside.tcp("127.0.0.1") == "ECONNREFUSED"  # its own, where nobody listens
    assert around.node.lines == []


async def test_an_operator_can_open_private_ranges_but_not_the_metadata_service(
    sandbox: OpenSandbox, around: World
) -> None:
    inside = await sandbox(EgressOptions(denied=("10.0.0.0/8",)))
    assert await inside.tcp("192.168.1.1", "10.0.0.1", METADATA) == ["192.168.1.1", REFUSED, REFUSED]


async def test_a_denied_range_is_denied_and_allow_beats_deny(sandbox: OpenSandbox) -> None:
    inside = await sandbox(denyOut=["1.0.0.0/8"], allowOut=[PUBLIC])
    assert await inside.tcp(OTHER_PUBLIC, PUBLIC, THIRD_PUBLIC) == [REFUSED, PUBLIC, THIRD_PUBLIC]


async def test_without_internet_access_only_what_is_allowed_can_be_reached(sandbox: OpenSandbox) -> None:
    inside = await sandbox(internet=False)
    assert await inside.tcp(PUBLIC, "allowed.example") == [REFUSED, "gaierror -2"]
    await inside.update(internet=False, allowOut=[PUBLIC])
    assert await inside.tcp(PUBLIC, OTHER_PUBLIC) == [PUBLIC, REFUSED]


async def test_an_allowed_domain_is_reached_by_its_name_and_no_other(sandbox: OpenSandbox, around: World) -> None:
    inside = await sandbox(allowOut=["allowed.example", "*.wild.example"], denyOut=["0.0.0.0/0"])
    assert await inside.tcp(NAMED) == REFUSED  # nobody has resolved the name yet
    assert await inside.tcp("Allowed.example", "deep.sub.wild.example") == [NAMED, OTHER_PUBLIC]
    assert await inside.tcp("wild.example", "notallowed.example", PUBLIC) == ["gaierror -2", "gaierror -2", REFUSED]
    assert not around.internet.reached("dns", "wild.example")
    assert not around.internet.reached("dns", "notallowed.example")
    assert await inside.value(f"udp({NAMED!r})") == f"{NAMED} hello"


async def test_a_name_server_of_its_own_opens_nothing(sandbox: OpenSandbox) -> None:
    fields = {"allowOut": ["allowed.example"], "denyOut": ["0.0.0.0/0"]}
    inside = await sandbox(**fields)
    assert await inside.tcp(NAME_SERVER) == REFUSED
    await inside.update(**fields, dnsServers=[NAME_SERVER])
    assert await inside.tcp(NAME_SERVER, NAMED) == [NAME_SERVER, REFUSED]


async def test_an_allowed_name_with_a_private_address_opens_nothing(sandbox: OpenSandbox, around: World) -> None:
    inside = await sandbox(allowOut=["rebinding.example"], denyOut=["0.0.0.0/0"])
    assert await inside.tcp("rebinding.example") == REFUSED
    assert not around.internet.reached("tcp", "10.0.0.1")
    assert not around.internet.reached("tcp", METADATA)


async def test_what_is_denied_cannot_send_in_either(sandbox: OpenSandbox) -> None:
    """A user-mode stack hands on datagrams from anybody to whoever has sent one."""
    inside = await sandbox()
    assert await inside.value(f"udp({PUBLIC!r}, 'from {OTHER_PUBLIC}')") == "unasked"
    await inside.update(denyOut=[f"{OTHER_PUBLIC}/32"])
    code = f"""
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.sendto(b'from {OTHER_PUBLIC}', ({PUBLIC!r}, 80))
sock.sendto(b'from {THIRD_PUBLIC}', ({PUBLIC!r}, 80))
"""
    await inside.driver.run(code)
    assert await inside.value("sock.recvfrom(100)[1][0]") == THIRD_PUBLIC


async def test_two_sandboxes_do_not_reach_each_other(sandbox: OpenSandbox) -> None:
    first, second = await sandbox(allowOut=["0.0.0.0/0"]), await sandbox(allowOut=["0.0.0.0/0"])
    own = str(SANDBOX_ADDRESS)  # of both
    await first.driver.run("server = socket.create_server(('0.0.0.0', 8080)); server.setblocking(False)")
    assert await first.value(f"[socket.create_connection(({own!r}, 8080)).close(), server.accept()][1][1][0]") == own
    code = f"[tcp(address, 8080) for address in ({own!r}, '198.19.255.2', {NODE!r})]"
    assert await second.value(code) == ["ECONNREFUSED", REFUSED, REFUSED]
    cell = await first.driver.run("server.accept()")
    assert cell.error is not None
    assert cell.error[0] == "BlockingIOError"


# ---- changes ----


async def test_an_update_cuts_connections_that_it_denies_and_no_others(sandbox: OpenSandbox) -> None:
    inside = await sandbox()
    code = f"""
kept, cut = (socket.create_connection((address, 80)) for address in ({PUBLIC!r}, {OTHER_PUBLIC!r}))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.connect(({OTHER_PUBLIC!r}, 80))
for stream in (kept, cut):
    stream.makefile().readline()
def echo(stream):
    try:
        stream.sendall(b'x')
        return stream.recv(1).decode()
    except OSError as error:
        return errno.errorcode[error.errno]
"""
    await inside.driver.run(code)
    assert await inside.value("[echo(kept), echo(cut)]") == ["x", "x"]
    waiting = await inside.driver.running("datagrams.recv(1)")  # nobody would ever say anything to it
    await inside.update(denyOut=[OTHER_PUBLIC])
    async with asyncio.timeout(10):
        cell = await inside.driver.finish(waiting)
    assert cell.error is not None
    assert cell.error[0] == "ConnectionAbortedError"
    assert await inside.value("[echo(kept), echo(cut) in ('ECONNABORTED', 'EPIPE', 'ECONNRESET')]") == ["x", True]
    assert await inside.tcp(OTHER_PUBLIC) == REFUSED
    await inside.update()  # full replacement: what is left out is gone
    assert await inside.tcp(OTHER_PUBLIC) == OTHER_PUBLIC


async def test_connections_to_a_domain_outlive_an_update_that_still_allows_it(sandbox: OpenSandbox) -> None:
    inside = await sandbox(allowOut=["allowed.example"], denyOut=["0.0.0.0/0"])
    await inside.driver.run("stream = socket.create_connection(('allowed.example', 80)).makefile('rw')")
    await inside.driver.run("stream.readline()")
    await inside.update(allowOut=["allowed.example", PUBLIC], denyOut=["0.0.0.0/0"])
    assert await inside.value("[stream.write('still\\n'), stream.flush(), stream.readline()][2]") == "still\n"
    await inside.update(allowOut=[PUBLIC], denyOut=["0.0.0.0/0"])
    assert await inside.tcp(NAMED) == REFUSED


async def test_rules_that_cannot_be_set_leave_the_old_ones(
    sandbox: OpenSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = await sandbox(denyOut=[OTHER_PUBLIC])
    monkeypatch.setattr(netlink, "nft_path", lambda: "/bin/false")
    with pytest.raises(InternalError, match="rules could not be set"):
        await inside.update()
    assert inside.egress.request.deny
    assert await inside.tcp(PUBLIC, OTHER_PUBLIC) == [PUBLIC, REFUSED]


# ---- attempts to get around it ----

#: Run with every capability that the sandbox's user namespace can give: worse than anything inside can get.
AS_ROOT_INSIDE = """
import ctypes, fcntl, json, os, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
network, user = int(sys.argv[1]), int(sys.argv[2])
for fd in (network, user):
    assert not libc.setns(fd, 0), os.strerror(ctypes.get_errno())
os.setgroups([]), os.setresgid(0, 0, 0), os.setresuid(0, 0, 0)
assert int(next(l for l in open('/proc/self/status') if l.startswith('CapEff')).split()[1], 16) >> 12 & 1  # NET_ADMIN
def attempt(work):
    try:
        return work() or 'done'
    except OSError as error:
        return type(error).__name__
def program(*argv):
    return 'done' if not subprocess.run(argv, capture_output=True).returncode else 'failed'
def mark():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).setsockopt(socket.SOL_SOCKET, 36, 1)
def tun():
    fd = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack('16sH22x', b'mine', 2))
print(json.dumps({
    'raw': attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) and None),
    'raw6': attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) and None),
    'packet': attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 768) and None),
    'mark': attempt(mark),
    'tun': attempt(tun),
    'list rules': program('nft', 'list', 'ruleset'),
    'flush rules': program('nft', 'flush', 'ruleset'),
    'own rules': program('nft', 'add table inet mine'),
    'link': program('ip', 'link', 'set', 'egress', 'down'),
    'address': program('ip', 'addr', 'add', '10.9.9.9/8', 'dev', 'egress'),
    'route': program('ip', 'route', 'replace', 'default', 'dev', 'lo'),
    'address6': program('ip', '-6', 'addr', 'add', '2001:db8::1/64', 'dev', 'egress'),
    'new link': program('ip', 'link', 'add', 'mine', 'type', 'veth'),
}))
"""


async def test_root_of_the_sandbox_cannot_change_rules_links_or_routes(sandbox: OpenSandbox) -> None:
    inside = await sandbox(denyOut=[OTHER_PUBLIC])
    walls = inside.driver.session._walls
    network = os.open(f"/proc/{walls.first_pid}/ns/net", os.O_RDONLY)
    try:
        place = inside.driver.session._place
        fds = [network, await place.identity.namespace(place.zygote)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", AS_ROOT_INSIDE, *map(str, fds)),
            pass_fds=fds,
            stdout=subprocess.PIPE,
        )
        said, _ = await process.communicate()
    finally:
        os.close(network)
    outcomes = json.loads(said)
    assert {what for what, outcome in outcomes.items() if outcome == "done"} == set(), outcomes
    assert await inside.tcp(PUBLIC, OTHER_PUBLIC) == [PUBLIC, REFUSED]


async def test_there_is_no_ipv6_and_no_raw_socket_inside(sandbox: OpenSandbox) -> None:
    inside = await sandbox()
    code = "[line.split()[-1] for line in open('/proc/net/if_inet6')]"
    assert set(await inside.value(code)) <= {"lo"}
    assert await inside.tcp("2606:4700:4700::1111") in ("ENETUNREACH", "EADDRNOTAVAIL")
    for kind in ("AF_INET, socket.SOCK_RAW, 255", "AF_INET6, socket.SOCK_RAW, 58", "AF_PACKET, socket.SOCK_RAW, 768"):
        cell = await inside.driver.run(f"socket.socket(socket.{kind})")
        assert cell.error is not None
        assert cell.error[0] in ("PermissionError", "OSError")


async def test_other_protocols_do_not_leave(sandbox: OpenSandbox) -> None:
    inside = await sandbox()
    for number in (132, 136):  # SCTP, UDP-Lite
        cell = await inside.driver.run(
            f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, {number}); s.sendto(b'x', ({PUBLIC!r}, 80))"
        )
        assert cell.error is not None, number


async def test_the_resolver_survives_rubbish_and_floods(sandbox: OpenSandbox) -> None:
    inside = await sandbox()
    code = f"""
import os
streams = [socket.create_connection(({str(RESOLVER_ADDRESS)!r}, 53), 5) for _ in range(20)]
streams[0].sendall(b'\\xff\\xff' + b'\\xc0' * 5000)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for size in (0, 1, 11, 12, 40, 512, 5000):
    for _ in range(200):
        try:
            sock.sendto(os.urandom(size), ({str(RESOLVER_ADDRESS)!r}, 53))
        except OSError:
            pass
import time
deadline = time.monotonic() + 60  # the bound on questions must first allow more of them
while (said := tcp('any.example')).startswith('gaierror') and time.monotonic() < deadline:
    time.sleep(0.1)  # or these questions alone would use up what is allowed
"""
    assert (await inside.driver.run(code)).error is None
    assert await inside.value("said") == THIRD_PUBLIC


# ---- the stack itself ----


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_the_stack_has_ids_of_its_own_and_no_privilege(sandbox: OpenSandbox) -> None:
    inside = await sandbox()
    pid = inside.egress.stack_pid
    assert pid is not None
    seen = status(pid)
    number = int(seen["Uid"].split()[0])
    assert FIRST_STACK_ID <= number < FIRST_STACK_ID + 65_536
    assert set(seen["Uid"].split()) == set(seen["Gid"].split()) == {str(number)}
    assert (seen["Groups"], seen["NoNewPrivs"], seen["Seccomp"]) == ("", "1", "2")
    # Its one capability is of its own user namespace, and none of the node's.
    assert Path(f"/proc/{pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    assert int(seen["CapEff"], 16) & ~(1 << 10) == 0
    root = Path(f"/proc/{pid}/root")
    assert {entry.name for entry in root.iterdir()} <= {"etc", "run"}
    assert [entry for folder in root.iterdir() for entry in folder.iterdir()] == []
    assert "1024" in next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line)


async def test_a_stack_that_dies_is_started_anew_under_the_same_rules(sandbox: OpenSandbox) -> None:
    inside = await sandbox(denyOut=[OTHER_PUBLIC])
    first = inside.egress.stack_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: inside.egress.stack_pid != first)
    await eventually(lambda: LINK in Path(f"/proc/{inside.driver.session._walls.first_pid}/net/route").read_text())
    assert await inside.tcp(PUBLIC, OTHER_PUBLIC) == [PUBLIC, REFUSED]


def processes_of(ids: range) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid in ids:
                    found.add(int(entry.name))
            except OSError:
                pass
    return found


async def test_nothing_is_left_of_a_sandbox_s_network_when_it_ends(sandbox: OpenSandbox) -> None:
    inside = await sandbox(allowOut=["allowed.example"], denyOut=["0.0.0.0/0"])
    assert await inside.tcp("allowed.example") == NAMED
    pid, namespace = inside.egress.stack_pid, Path(f"/proc/{inside.driver.session._walls.first_pid}/ns/net").readlink()
    await inside.driver.session.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not [link for link in Path("/proc").glob("[0-9]*/ns/net") if link_of(link) == namespace]


def link_of(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None


OWNER = """
import asyncio, sys
from raybox_actors.network.egress import EgressHost, EgressOptions
async def main():
    host = EgressHost(int(sys.argv[1]), EgressOptions(outer_namespace=sys.argv[2]))
    egress = await host.attach(int(sys.argv[3]))
    print(egress.stack_pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def namespaced() -> subprocess.Popen[bytes]:
    """A process in a network namespace of its own."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    own = Path("/proc/self/ns/net").readlink()
    wait_until(lambda: link_of(Path(f"/proc/{process.pid}/ns/net")) != own, 5.0)
    return process


def owning(slot: int, outer: str, pid: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OWNER, str(slot), outer, str(pid)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_nothing_is_left_when_the_owner_is_killed(around: World) -> None:
    slot = next(_slots)
    ids = range(FIRST_STACK_ID + slot, FIRST_STACK_ID + slot + 1)
    victim = namespaced()
    owner = owning(slot, around.outer, victim.pid)
    try:
        assert owner.stdout is not None
        stack_pid = int(await asyncio.to_thread(owner.stdout.readline))
        assert stack_pid in processes_of(ids)
        owner.kill()
        owner.wait()
        await eventually(lambda: not processes_of(ids), 5.0, lambda: f"left: {processes_of(ids)}")
        await eventually(lambda: LINK not in Path(f"/proc/{victim.pid}/net/dev").read_text())
    finally:
        for process in (owner, victim):
            process.kill()
            process.wait()
        assert owner.stdout is not None
        owner.stdout.close()


@pytest.mark.usefixtures("no_leaks")
async def test_a_network_that_cannot_be_made_leaves_nothing_and_says_why(
    monkeypatch: pytest.MonkeyPatch, around: World
) -> None:
    victim = namespaced()
    host = EgressHost(next(_slots), EgressOptions(outer_namespace=around.outer))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(netlink, "nft_path", lambda: "/bin/false")
            with pytest.raises(InternalError, match="rules could not be set"):
                await host.attach(victim.pid)
        with monkeypatch.context() as patch:
            patch.setattr("raybox_actors.network.stack.STACK_MEMORY_BYTES", 4096)
            with pytest.raises(InternalError, match="stack did not start"):
                await host.attach(victim.pid)
        for delay_s in (0.0, 0.005, 0.01, 0.02):
            attaching = asyncio.create_task(host.attach(victim.pid))
            await asyncio.sleep(delay_s)
            attaching.cancel()
            await asyncio.wait({attaching})
            if not attaching.cancelled():
                await attaching.result().close()
        egress = await host.attach(victim.pid, NetworkRequest(internet=False))
        await egress.close()
    finally:
        host.close()
        victim.kill()
        victim.wait()


def test_the_world_of_these_tests_is_cut_off(around: World) -> None:
    """Its only way out is the link between its two namespaces."""
    namespace = Path(around.outer).name
    listed = subprocess.run(["ip", "-n", namespace, "-j", "link"], capture_output=True, check=True).stdout
    assert {link["ifname"] for link in json.loads(listed)} == {"lo", "up0"}
    assert socket.gethostname()  # and the test itself stays where it is
