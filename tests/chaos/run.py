"""One chaos run: a cluster of three nodes, a pool in it, a steady load, and one fault after the other."""

from __future__ import annotations

import faulthandler
import itertools
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx

import raybox
from raybox import Pool
from raybox_cluster import cli_processes, cli_state
from raybox_cluster.batch.holding import LEASE_S
from tests.chaos import plan
from tests.chaos.journal import Journal
from tests.chaos.load import CALL_LIMIT_S, OF_A_BATCH, REQUEST_S, SANDBOX_S, Lane
from tests.chaos.plan import Component, Fault, Operation, Way
from tests.chaos.prey import Prey
from tests.support.multi_node import connected, multi_node
from tests.support.pool import raybox as raybox_command
from tests.support.wait import wait_until

LANES: Final = 6
NODES, SANDBOXES, WARM = 2, 10, 3
UP_LIMIT_S: Final = 170.0
#: Of a pool that mends itself, nodes included.
REST_LIMIT_S: Final = 60.0
WAYS: Final[tuple[Way, ...]] = ("http", "ray")
KINDS: Final[tuple[str, ...]] = ("trajectory", "lease", "batch", "gang")
COMPONENTS: Final[tuple[Component, ...]] = tuple(plan.WEIGHTS)


@dataclass(frozen=True)
class Chosen:
    """What of the plan a run has: fewer ways, kinds and components make it easier to look into a failure."""

    seed: int
    duration_s: float
    lanes: int = LANES
    ways: Sequence[Way] = WAYS
    kinds: Sequence[str] = KINDS
    components: Sequence[Component] = COMPONENTS


def run(chosen: Chosen, journal: Journal) -> None:
    """Everything of it, into the journal. Leaves nothing running. AssertionError if the pool cannot be had at all."""
    name, marker = f"chaos-{os.getpid()}", secrets.token_hex(8)
    with multi_node(environment={cli_processes.MARKER: marker}) as cluster:

        def add_node() -> str:
            return cluster.add(cpus=2 * SANDBOXES, memory_bytes=2**37)

        for _ in range(NODES):
            add_node()
        prey = Prey(name, marker, cluster, add_node)
        with connected(cluster):
            serve_on_the_head()
            with pool_in(cluster.address, name) as record:
                pools: Mapping[Way, Pool] = {
                    "http": raybox.connect(record.url, api_key=record.api_key, request_timeout=REQUEST_S),
                    "ray": raybox.connect(f"ray://{name}", request_timeout=REQUEST_S),
                }
                storm(chosen, pools, prey, journal)
                end_orphans(pools["http"], journal)
                at_rest(record, journal)
        for one in prey.left():
            journal.violation(f"left after the pool's end: {one}")
    left = cli_processes.wait_gone(lambda: cli_processes.marked(marker), 20.0)
    for process in left:
        journal.violation(f"left after the cluster's end: {process}")


def storm(chosen: Chosen, pools: Mapping[Way, Pool], prey: Prey, journal: Journal) -> None:
    """The load and the faults, for so long; then until every lane is done with what it has begun."""
    stopping = threading.Event()
    lanes = [
        Lane(number, plan.operations(chosen.seed, number, chosen.ways, chosen.kinds), pools, journal, stopping)
        for number in range(chosen.lanes)
    ]
    for lane in lanes:
        lane.start()
    began_s = time.monotonic()
    for fault in plan.faults(chosen.seed, chosen.components):
        if fault.at_s > chosen.duration_s:
            break
        time.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
        if time.monotonic() > began_s + chosen.duration_s:  # replacing nodes took the time
            break
        journal.decided(None, fault)
        hit = prey.strike(fault)
        journal.outcome(f"fault: {fault.component}" + ("" if hit else ", not there"), hit)
    time.sleep(max(0.0, began_s + chosen.duration_s - time.monotonic()))
    stopping.set()
    until_s = time.monotonic() + 4 * CALL_LIMIT_S
    for lane in lanes:
        lane.join(max(0.0, until_s - time.monotonic()))
        if lane.is_alive():
            journal.violation(f"lane {lane.number} hangs in {lane.doing!r}")
            faulthandler.dump_traceback(file=sys.stderr)


def end_orphans(pool: Pool, journal: Journal) -> None:
    """What a front or a gateway was making or using for somebody as it died: nobody has it, and it ends by itself. That
    it would, and how soon, is looked at; it is not waited for."""
    listed = pool.list()
    while listed.has_next:
        for info in listed.next_items():
            left_s = info.end_at.timestamp() - time.time()
            journal.outcome("orphan", f"{info.sandbox_id}: {left_s:.0f} s left")
            if left_s > (LEASE_S if info.metadata == OF_A_BATCH else SANDBOX_S):
                journal.violation(f"{info.sandbox_id} is nobody's, and would live for {left_s:.0f} s")
            pool.kill(info.sandbox_id)


def at_rest(record: cli_state.PoolRecord, journal: Journal) -> None:
    """Every slot is free again and no sandbox or lease is left."""

    def ask(path: str) -> object:
        answer = httpx.get(f"{record.url}{path}", headers={"X-API-KEY": record.api_key}, timeout=30, trust_env=False)
        return answer.json() if answer.is_success else answer.status_code

    def look() -> dict[str, object]:
        return {path: ask(path) for path in ("/raybox/status", "/v2/sandboxes", "/raybox/leases")}

    def resting() -> bool:
        seen = look()
        status = seen["/raybox/status"]
        if not isinstance(status, dict) or seen["/v2/sandboxes"] or seen["/raybox/leases"]:
            return False
        leases = status["leases"], status["orphaned_leases"]
        return leases == (0, 0) and dict(status["slots_by_state"]) == {"warm": WARM, "idle": SANDBOXES - WARM}

    began_s = time.monotonic()
    try:
        wait_until(resting, REST_LIMIT_S, look)
    except AssertionError as error:
        journal.violation(f"not at rest: {error}")
    journal.outcome("at rest", f"{ask('/raybox/status')}", time.monotonic() - began_s)


def serve_on_the_head() -> None:
    """So that requests come in where nothing is killed; all nodes are one machine, with one port 8000."""
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )


@contextmanager
def pool_in(address: str, name: str) -> Iterator[cli_state.PoolRecord]:
    size = ("--sandboxes", str(SANDBOXES), "--warm", str(WARM), "--memory-mib", "256", "--disk-mib", "64")
    up = raybox_command("up", "--detach", "--name", name, "--address", address, *size, timeout_s=UP_LIMIT_S)
    try:
        assert up.returncode == 0, up.stderr
        record = cli_state.read(name)
        assert record is not None
        yield record
    finally:
        down = raybox_command("down", "--name", name, timeout_s=120)
    assert down.returncode == 0, down.stderr


def replayed(chosen: Chosen, journal: Journal) -> bool:
    """Whether the seed decides the same once more: all that was decided, lane by lane, is where it begins."""
    streams: dict[int | None, Iterator[Operation | Fault]] = {None: plan.faults(chosen.seed, chosen.components)}
    for lane in range(chosen.lanes):
        streams[lane] = plan.operations(chosen.seed, lane, chosen.ways, chosen.kinds)
    return all(
        decided == [plan.line(lane, one) for one in itertools.islice(streams[lane], len(decided))]
        for lane, decided in journal.decisions.items()
    )
