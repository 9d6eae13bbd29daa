"""A small world in network namespaces: a node and, behind its one link, hosts with addresses of the real internet, of
private networks and of the metadata service. Nothing in it can reach anything outside the machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

STAND_IN = Path(__file__).with_name("stand_in.py")

NODE, NEIGHBOUR = "203.0.113.1", "203.0.113.2"
NAME_SERVER = "9.9.9.9"
PUBLIC, OTHER_PUBLIC, THIRD_PUBLIC = "1.1.1.1", "1.0.0.1", "8.8.4.4"
NAMED = "93.184.216.34"
METADATA = "169.254.169.254"
DENIED_ALWAYS = (METADATA, "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "168.63.129.16", NEIGHBOUR)

_numbers = itertools.count()


@dataclass
class Host:
    """What listens in one namespace, and what has reached it so far."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def reached(self, kind: str, *words: str) -> bool:
        return any(line.split()[: 1 + len(words)] == [kind, *words] for line in self.lines)


@dataclass
class World:
    outer: str  #: path of the node's network namespace
    internet: Host
    node: Host


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def _host(namespace: str, addresses: list[str]) -> Iterator[Host]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-I", str(STAND_IN), *addresses],
        stdout=subprocess.PIPE,
        text=True,
    )
    host = Host(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    reader = threading.Thread(target=lambda out: host.lines.extend(out), args=(process.stdout,))
    reader.start()
    try:
        yield host
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


@contextlib.contextmanager
def world() -> Iterator[World]:
    number = f"{os.getpid()}-{next(_numbers)}"
    node, net = f"rbt-node-{number}", f"rbt-net-{number}"
    with contextlib.ExitStack() as stack:
        for name in (node, net):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", node, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", net)
        _ip("-n", node, "addr", "add", f"{NODE}/24", "dev", "up0")
        _ip("-n", net, "addr", "add", f"{NEIGHBOUR}/24", "dev", "down0")
        _ip("-n", node, "link", "set", "up0", "up")
        _ip("-n", net, "link", "set", "down0", "up")
        _ip("-n", node, "route", "add", "default", "via", NEIGHBOUR)
        addresses = [PUBLIC, OTHER_PUBLIC, THIRD_PUBLIC, NAMED, NAME_SERVER, *DENIED_ALWAYS]
        for address in addresses:
            if address != NEIGHBOUR:
                _ip("-n", net, "addr", "add", f"{address}/32", "dev", "lo")
        internet = stack.enter_context(_host(net, addresses))
        yield World(f"/run/netns/{node}", internet, stack.enter_context(_host(node, [NODE, "127.0.0.1"])))
