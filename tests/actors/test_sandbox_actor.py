"""Node agent and sandbox actor in a real Ray: claims, recycling, expiry, interrupts, control calls, and deaths."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from raybox_actors.config import NAMESPACE, NodeFacts, PoolConfig, node_agent_name, sandbox_actor_name
from raybox_actors.errors import BadRequest, NotFound, SandboxLost, SlotTaken
from raybox_actors.isolation.orphans import wall_marks
from raybox_actors.isolation.policy import host_slot
from raybox_actors.network.egress import egress_available
from raybox_actors.network.stack import FIRST_STACK_ID
from raybox_actors.node_agent import NodeAgent
from raybox_actors.sandbox_actor import CONCURRENCY_GROUPS, SandboxActor
from raybox_actors.sandbox_id import parse
from raybox_actors.values import CreateRequest, ExecuteRequest, SandboxInfo
from tests.actors.driving import Cell, children_of, inside, namespace_of
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.pool,
    # Ray itself: sockets of its driver that are collected rather than closed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REMOTE: Any = ray.remote  # whose stubs do not know concurrency_groups
SLEEP = "import time; time.sleep(60)"
_numbers = itertools.count(1)


class AgentWithoutTun(NodeAgent):
    """Of a node whose kernel lacks what a network needs."""

    async def start(self) -> NodeFacts:
        return replace(await super().start(), no_network="no tun device")


class Pool:
    """A node agent and its sandbox actors; no manager."""

    def __init__(
        self, node_id: str, run_dir: Path, network: str = "none", agent_class: type[NodeAgent] = NodeAgent
    ) -> None:
        self.node_id, self.agent_class = node_id, agent_class
        name = f"t{os.getpid() % 10_000}-{next(_numbers)}"
        self.config = PoolConfig(name=name, secret=b"x", run_dir=str(run_dir), network=network)
        self.actors: list[Any] = []
        self.agent = self.start_agent()

    def start_agent(self) -> Any:
        agent = REMOTE(self.agent_class).options(
            name=node_agent_name(self.config, self.node_id), namespace=NAMESPACE, num_cpus=0, lifetime="detached"
        )
        self.agent = agent.remote(self.config, self.node_id)
        ray.get(self.agent.start.remote(), timeout=60)
        return self.agent

    def slot(self) -> Any:
        number = len(self.actors)
        actor = REMOTE(concurrency_groups=CONCURRENCY_GROUPS)(SandboxActor).options(
            name=sandbox_actor_name(self.config, self.node_id, number), namespace=NAMESPACE, num_cpus=0
        )
        handle = actor.remote(self.config, self.node_id, number)
        self.actors.append(handle)
        ray.get(handle.start.remote(), timeout=60)
        return handle

    @property
    def zygote_pid(self) -> int:
        pid = ray.get(self.agent.ping.remote())["zygote_pid"]
        assert isinstance(pid, int)
        return pid

    def walls(self) -> set[int]:
        return {pid for pid, mark in wall_marks().items() if mark.startswith(f"{self.config.name}:")}

    def stop(self) -> None:
        for actor in self.actors:
            with_death(lambda actor=actor: ray.get(actor.retire.remote(), timeout=20))  # type: ignore[misc]
        with_death(lambda: ray.get(self.agent.stop.remote(), timeout=20))
        ray.kill(self.agent)
        wait_until(lambda: not self.walls(), 5, lambda: f"left: {self.walls()}")


def with_death(work: Callable[[], object]) -> None:
    """Do it, and be content if the actor is dead or dies of it."""
    with contextlib.suppress(RayActorError):
        work()


@pytest.fixture(scope="module")
def pool(ray_cluster: str, run_folder: Path) -> Iterator[Pool]:
    pool = Pool(ray_cluster, run_folder)
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def actor(pool: Pool) -> Any:
    """For tests that leave it free."""
    return pool.slot()


@pytest.fixture
def claimed(actor: Any) -> Iterator[SandboxInfo]:
    info = ray.get(actor.claim.remote(CreateRequest()))
    yield info
    with contextlib.suppress(SandboxLost):
        ray.get(actor.kill.remote(info.sandbox_id))


def cause_of(error: SandboxLost) -> str:
    """Ray's RayTaskError has a `cause` of its own, which is the error that we raised, and which hides ours."""
    lost: object = error.cause
    assert isinstance(lost, SandboxLost)
    return lost.cause


def start(actor: Any, sandbox_id: str, code: str, **fields: Any) -> Cell:
    cell = Cell(f"r{next(_numbers)}")
    cell.take(ray.get(actor.execute.remote(sandbox_id, ExecuteRequest(cell.execution_id, code, **fields)), timeout=30))
    return cell


def finish(actor: Any, sandbox_id: str, cell: Cell) -> Cell:
    while not cell.done:
        cell.take(ray.get(actor.poll.remote(sandbox_id, cell.execution_id, cell.next_seq, 10), timeout=30))
    return cell


def run(actor: Any, sandbox_id: str, code: str, **fields: Any) -> Cell:
    return finish(actor, sandbox_id, start(actor, sandbox_id, code, **fields))


def running(actor: Any, sandbox_id: str, code: str) -> Cell:
    cell = start(actor, sandbox_id, f"print('up')\n{code}")
    while "up" not in cell.text():
        cell.take(ray.get(actor.poll.remote(sandbox_id, cell.execution_id, cell.next_seq, 10), timeout=30))
    return cell


def test_a_claim_is_answered_when_the_walls_stand_and_cells_wait_for_the_kernel(pool: Pool, actor: Any) -> None:
    zygote = pool.zygote_pid
    os.kill(zygote, signal.SIGSTOP)
    try:
        info = ray.get(actor.claim.remote(CreateRequest()), timeout=15)
        cell = actor.execute.remote(info.sandbox_id, ExecuteRequest("early", "1 + 1"))
        assert ray.wait([cell], timeout=0.2)[0] == []
    finally:
        os.kill(zygote, signal.SIGCONT)
    early = Cell("early")
    early.take(ray.get(cell, timeout=30))
    assert finish(actor, info.sandbox_id, early).result == "2"
    ray.get(actor.kill.remote(info.sandbox_id))


def test_an_interrupt_arrives_in_a_real_actor(actor: Any, claimed: SandboxInfo) -> None:
    """SIGINT is blocked in every Ray worker and inherited by children; a kernel must not inherit it."""
    cell = running(actor, claimed.sandbox_id, f"x = 1\n{SLEEP}")
    before = time.monotonic()
    ray.get(actor.interrupt.remote(claimed.sandbox_id, cell.execution_id))
    finish(actor, claimed.sandbox_id, cell)
    assert cell.error is not None
    assert cell.error[0] == "KeyboardInterrupt"
    assert time.monotonic() - before < 5
    assert run(actor, claimed.sandbox_id, "x").result == "1"


def test_of_two_claims_one_wins(actor: Any) -> None:
    for state in ("idle", "warm"):
        if state == "warm":
            assert ray.get(actor.prepare.remote()).state == "warm"
        won: list[SandboxInfo] = []
        for claim in [actor.claim.remote(CreateRequest()) for _ in range(4)]:
            with contextlib.suppress(SlotTaken):
                won.append(ray.get(claim))
        assert len(won) == 1
        assert run(actor, won[0].sandbox_id, "1 + 1").result == "2"
        ray.get(actor.kill.remote(won[0].sandbox_id))


def test_recycling_raises_the_epoch_and_forgets_everything(actor: Any) -> None:
    epochs: list[int] = []
    old = ""
    for _ in range(3):
        info = ray.get(actor.claim.remote(CreateRequest(env_vars={"E": str(len(epochs))})))
        identity = parse(info.sandbox_id)
        assert identity is not None
        epochs.append(identity.epoch)
        code = "import os; [os.environ['E'], os.listdir('/tmp'), 'x' in globals()]"
        assert run(actor, info.sandbox_id, code).result == f"['{len(epochs) - 1}', [], False]"
        run(actor, info.sandbox_id, "x = 1; open('/tmp/f', 'w').close()")
        if old:
            with pytest.raises(SandboxLost) as raised:
                run(actor, old, "1")
            assert cause_of(raised.value) == "killed"
        ray.get(actor.kill.remote(info.sandbox_id))
        old = info.sandbox_id
    assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2]
    description = ray.get(actor.describe.remote())
    assert (description.state, description.epoch, description.info) == ("idle", epochs[-1] + 1, None)
    for call in (actor.kill, actor.info):
        with pytest.raises(SandboxLost):
            ray.get(call.remote(old))
        with pytest.raises(NotFound):
            ray.get(call.remote("i" + "0" * 40))


def test_a_sandbox_expires_and_tells_who_waits(actor: Any) -> None:
    info = ray.get(actor.claim.remote(CreateRequest(timeout_s=1.0)))
    cell = running(actor, info.sandbox_id, SLEEP)
    with pytest.raises(SandboxLost) as raised:
        finish(actor, info.sandbox_id, cell)
    assert cause_of(raised.value) == "timeout"
    wait_until(lambda: ray.get(actor.describe.remote()).state == "idle", 5)
    info = ray.get(actor.claim.remote(CreateRequest(timeout_s=0.5)))
    ray.get(actor.set_timeout.remote(info.sandbox_id, 100))
    extended, resumed = ray.get(actor.connect.remote(info.sandbox_id, 10))
    assert (resumed, extended.end_at_s - time.time() > 90) == (False, True)
    with pytest.raises(BadRequest):
        ray.get(actor.set_timeout.remote(info.sandbox_id, -1))
    ray.get(actor.set_timeout.remote(info.sandbox_id, 0))
    with pytest.raises(SandboxLost) as raised:
        ray.get(actor.info.remote(info.sandbox_id))
    assert cause_of(raised.value) == "timeout"


def test_control_calls_are_answered_while_300_executions_wait(actor: Any, claimed: SandboxInfo) -> None:
    cell = running(actor, claimed.sandbox_id, SLEEP)
    polls = [actor.poll.remote(claimed.sandbox_id, cell.execution_id, cell.next_seq, 50) for _ in range(60)]
    waiting = [actor.execute.remote(claimed.sandbox_id, ExecuteRequest(f"w{next(_numbers)}", "1")) for _ in range(240)]
    before = time.monotonic()
    assert ray.get(actor.info.remote(claimed.sandbox_id)).sandbox_id == claimed.sandbox_id
    assert ray.get(actor.describe.remote()).state == "running"
    assert ray.get(actor.ping.remote()) > 0
    ray.get(actor.interrupt.remote(claimed.sandbox_id, cell.execution_id))
    assert time.monotonic() - before < 5
    assert all(batch.count for batch in ray.get(polls, timeout=10))
    assert len(ray.get(waiting, timeout=30)) == 240


def test_kill_while_cells_run_and_wait(actor: Any) -> None:
    info = ray.get(actor.claim.remote(CreateRequest()))
    cell = running(actor, info.sandbox_id, SLEEP)
    polls = [actor.poll.remote(info.sandbox_id, cell.execution_id, cell.next_seq, 50) for _ in range(5)]
    ray.get(actor.kill.remote(info.sandbox_id), timeout=5)
    for poll in polls:
        with pytest.raises(SandboxLost):
            ray.get(poll, timeout=5)


def test_sigkill_of_the_zygote_while_a_cell_runs(pool: Pool, actor: Any, claimed: SandboxInfo) -> None:
    cell = running(actor, claimed.sandbox_id, "import time; time.sleep(1); 'survived'")
    old = pool.zygote_pid
    os.kill(old, signal.SIGKILL)
    assert finish(actor, claimed.sandbox_id, cell).result == "survived"
    # New kernels wait for the new zygote, and the old one's child is reaped by the node agent when it dies.
    context = ray.get(actor.create_context.remote(claimed.sandbox_id, None, None), timeout=30)
    assert run(actor, claimed.sandbox_id, "1 + 1", context_id=context.context_id).result == "2"
    assert pool.zygote_pid != old
    before = time.monotonic()
    ray.get(actor.kill.remote(claimed.sandbox_id), timeout=20)
    assert time.monotonic() - before < 3


def test_sigkill_of_the_actor_leaves_nothing_within_two_seconds(pool: Pool) -> None:
    actor = pool.slot()
    info = ray.get(actor.claim.remote(CreateRequest()))
    before = pool.walls()
    run(actor, info.sandbox_id, "import subprocess; p = subprocess.Popen(['setsid', 'sleep', '1000'])")
    cell = running(actor, info.sandbox_id, SLEEP)
    pid = ray.get(actor.ping.remote())
    (monitor,) = (one for one in children_of(pid) if one in before)
    (first,) = children_of(monitor)
    namespace = namespace_of(first)
    assert len(inside(namespace)) >= 3
    poll = actor.poll.remote(info.sandbox_id, cell.execution_id, cell.next_seq, 50)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not inside(namespace) and monitor not in pool.walls(), 2, lambda: inside(namespace))
    with pytest.raises((ActorDiedError, RayTaskError)):
        ray.get(poll, timeout=20)


def test_sigkill_of_the_node_agent_while_a_cell_runs(pool: Pool, actor: Any, claimed: SandboxInfo) -> None:
    cell = running(actor, claimed.sandbox_id, "import time; time.sleep(1); 'survived'")
    status = ray.get(pool.agent.ping.remote())
    os.kill(status["pid"], signal.SIGKILL)
    assert finish(actor, claimed.sandbox_id, cell).result == "survived"
    wait_until(lambda: not Path(f"/proc/{status['zygote_pid']}").exists(), 5)

    failures: list[str] = []

    def start_again() -> bool:
        try:
            pool.start_agent()
        except ValueError as error:  # its name is not free yet
            failures.append(repr(error))
            return False
        return True

    wait_until(start_again, 20, lambda: failures[-1])
    assert ray.get(pool.agent.ping.remote())["orphans_swept"] == 0
    context = ray.get(actor.create_context.remote(claimed.sandbox_id, None, None), timeout=30)
    assert run(actor, claimed.sandbox_id, "1 + 1", context_id=context.context_id).result == "2"


# ---- network ----

CLOSED: dict[str, object] = {"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"]}
ROUTES = "open('/proc/net/route').read().count('\\n') - 1"
NAME_SERVERS = "open('/etc/resolv.conf').read().split()"


def test_a_pool_without_network_says_so_and_refuses_who_needs_one(actor: Any) -> None:
    with pytest.raises(RayTaskError) as raised:
        ray.get(actor.claim.remote(CreateRequest(network=CLOSED)))
    assert isinstance(raised.value.cause, BadRequest)
    assert "--network egress" in str(raised.value.cause)
    info = ray.get(actor.claim.remote(CreateRequest(network={"denyOut": ["1.1.1.1"]})))  # which holds
    try:
        assert not info.allow_internet_access
        assert run(actor, info.sandbox_id, f"{ROUTES}, {NAME_SERVERS}").result == "(0, [])"
        with pytest.raises(RayTaskError) as raised:
            ray.get(actor.update_network.remote(info.sandbox_id, CLOSED))
        assert isinstance(raised.value.cause, BadRequest)
        ray.get(actor.update_network.remote(info.sandbox_id, {}, False))
        assert ray.get(actor.info.remote(info.sandbox_id)).network is None
    finally:
        ray.get(actor.kill.remote(info.sandbox_id))


def test_a_node_that_cannot_give_the_pool_s_network_serves_who_needs_none_and_tells_others(
    ray_cluster: str, run_folder: Path
) -> None:
    pool = Pool(ray_cluster, run_folder, "egress", AgentWithoutTun)
    try:
        actor = pool.slot()
        for request in (CreateRequest(), CreateRequest(network=CLOSED)):
            with pytest.raises(RayTaskError) as raised:
                ray.get(actor.claim.remote(request))
            assert isinstance(raised.value.cause, BadRequest)
            assert "no tun device" in str(raised.value.cause)
        ray.get(actor.prepare.remote(), timeout=60)
        info = ray.get(actor.claim.remote(CreateRequest(allow_internet_access=False)), timeout=60)
        assert not info.allow_internet_access
        assert run(actor, info.sandbox_id, ROUTES).result == "0"
    finally:
        pool.stop()


@pytest.mark.skipif(egress_available() is not None, reason="no egress here")
def test_a_pool_with_egress_gives_each_sandbox_the_rules_it_was_created_with(
    ray_cluster: str, run_folder: Path
) -> None:
    """Only routes and rules are looked at: nothing is sent."""
    pool = Pool(ray_cluster, run_folder, "egress")
    try:
        actor = pool.slot()
        for network, internet, ruled in ((None, True, False), (CLOSED, True, True), (None, False, True)):
            info = ray.get(
                actor.claim.remote(CreateRequest(network=network, allow_internet_access=internet)), timeout=60
            )
            assert (info.allow_internet_access, info.network) == (internet, network)
            cell = run(actor, info.sandbox_id, f"{ROUTES}, {NAME_SERVERS}")
            assert cell.result == "(2, ['nameserver', '127.0.0.53'])", cell.events
            assert refuses_all_else(pool) is ruled
            ray.get(actor.update_network.remote(info.sandbox_id, {} if ruled else CLOSED))
            assert refuses_all_else(pool) is not ruled
            now = ray.get(actor.info.remote(info.sandbox_id))
            assert (now.network, now.allow_internet_access) == (None if ruled else CLOSED, True)
            ray.get(actor.kill.remote(info.sandbox_id), timeout=30)
            assert not stacks(ray_cluster)
        ray.get(actor.prepare.remote(), timeout=60)  # warm ones have it already
        assert len(stacks(ray_cluster)) == 1
    finally:
        pool.stop()
    wait_until(lambda: not stacks(ray_cluster), 5, lambda: stacks(ray_cluster))


def stacks(node_id: str) -> set[int]:
    """Network stacks of the node's slot 0."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_of_slot = entry.name.isdigit() and entry.stat().st_uid == FIRST_STACK_ID + host_slot(node_id, 0)
            if is_of_slot and b"slirp" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def refuses_all_else(pool: Pool) -> bool:
    first = next(pid for wall in pool.walls() for pid in children_of(wall))
    command = ["nsenter", f"--net=/proc/{first}/ns/net", "nft", "list", "chain", "inet", "raybox", "output"]
    rules = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "goto refuse" in [line.strip() for line in rules.splitlines()]
