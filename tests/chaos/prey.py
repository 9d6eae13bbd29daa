"""Which processes are which part of a pool in a cluster of several nodes on this machine, and how they are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from raybox_actors.isolation.cgroup import existing, this_machine
from raybox_actors.isolation.orphans import parent_of, wall_marks
from raybox_cluster import cli_processes
from raybox_cluster.cli_processes import Process
from tests.chaos.plan import Component, Fault
from tests.support import components
from tests.support.multi_node import MultiNode

TITLES: dict[Component, str] = {
    "gateway": components.GATEWAY,
    "manager": components.MANAGER,
    "node_agent": components.NODE_AGENT,
    "sandbox_actor": "ray::SandboxActor",
    "front": "ray::Front",
}


class Prey:
    """The pool `name` in `cluster`, whose processes carry `marker`. A node that was killed is replaced at once."""

    def __init__(self, name: str, marker: str, cluster: MultiNode, add_node: Callable[[], str]) -> None:
        self.name, self._marker, self._cluster, self._add_node = name, marker, cluster, add_node

    def strike(self, fault: Fault) -> str:
        """Carry it out; what was hit, empty if the component is not there just now."""
        if fault.component in ("raylet", "node"):
            nodes = sorted(self._cluster.node_ids)
            return self._strike_node(nodes[fault.pick % len(nodes)], whole=fault.component == "node")
        found = sorted(self._find(fault.component), key=lambda one: one.pid)
        if not found:
            return ""
        chosen = found[fault.pick % len(found)]
        cli_processes.send(chosen, signal.SIGKILL)
        return str(chosen.pid)

    def _find(self, component: Component) -> list[Process]:
        match component:
            case "zygote":
                return self._zygotes()
            case "walls":
                marks = self._walls()
                return [one for pid in marks if parent_of(pid) not in marks and (one := cli_processes.look(pid))]
            case _:
                title = TITLES[component]
                return [
                    one
                    for one in cli_processes.marked(self._marker)
                    if components.command_line(one.pid).startswith(title)
                ]

    def _walls(self) -> dict[int, str]:
        return {pid: mark for pid, mark in wall_marks().items() if mark.startswith(f"{self.name}:")}

    def _zygotes(self) -> list[Process]:
        named = [one for one in cli_processes.everything() if f"/{self.name}/" in components.command_line(one.pid)]
        return [one for one in named if components.is_zygote(one.pid)]

    def _strike_node(self, node_id: str, *, whole: bool) -> str:
        raylet = self._cluster.raylet_pid(node_id)
        tree = cli_processes.descendants(raylet) if whole else []
        os.kill(raylet, signal.SIGKILL)
        for one in tree:
            cli_processes.send(one, signal.SIGKILL)
        self._cluster.kill(node_id)
        self._add_node()
        return f"{node_id[:12]} and {len(tree)} processes"

    def left(self) -> list[str]:
        """Everything of the pool that is on this machine; of one that was ended, nothing."""
        found = [f"walls {pid} {mark}" for pid, mark in self._walls().items()]
        for one in cli_processes.everything():
            line = components.command_line(one.pid)
            if f"{self.name}-gateway" in line or f"/{self.name}/" in line:
                found.append(f"process {one.pid} {line[:100]}")
        found += [f"mount {line}" for line in _lines("/proc/self/mountinfo") if f"/{self.name}/" in line]
        found += [f"socket {line}" for line in _lines("/proc/net/unix") if f"/{self.name}/" in line]
        folder = Path("/run/raybox", self.name)
        found += [f"file {path}" for path in (folder, *folder.rglob("*")) if path.exists()]
        if (hierarchy := this_machine()) is not None:
            found += [f"cgroup {one.name}" for one in existing(hierarchy, self.name)]
        return found


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
