"""What the processes of a pool listen on, as the kernel tells; for tests that prove that it cannot be reached."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.support.components import command_line
from tests.support.pool import RunningPool, processes_of

_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True)
class Listener:
    """One TCP port; `host` is an address at which this machine reaches it."""

    pid: int
    command: str
    host: str
    port: int


def listeners(pool: RunningPool) -> list[Listener]:
    by_inode = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, port = fields[1].split(":")
                by_inode[fields[9]] = (_reachable(address), int(port, 16))
    found = []
    for process in processes_of(pool):
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    match = _SOCKET.fullmatch(str(entry.readlink()))
                    if match is not None and match[1] in by_inode:
                        found.append(Listener(process.pid, command_line(process.pid), *by_inode[match[1]]))
    return found


def _reachable(address: str) -> str:
    """The kernel writes addresses as words in the machine's byte order; listening everywhere includes loopback."""
    words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
    ip = ipaddress.ip_address(b"".join(words))
    if ip.is_unspecified:
        return "127.0.0.1"
    return str(ip)


def accepts(host: str, port: int) -> bool:
    """Whether somebody takes a connection there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def own_addresses() -> list[str]:
    """This machine's IPv4 addresses besides loopback. Sends nothing."""
    found = set()
    for line in Path("/proc/net/fib_trie").read_text().split("|--"):
        if "/32 host LOCAL" in line:
            found.add(line.split()[0])
    return sorted(one for one in found if not ipaddress.ip_address(one).is_loopback)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
