"""Processes: whom code in a sandbox can see, signal or become, and who it is to the host. One attack, one test."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import pytest

import raybox
from raybox_actors.contexts import TimeoutPolicy
from raybox_actors.errors import BadRequest
from raybox_actors.isolation.policy import FIRST_HOST_ID, IDS_PER_SANDBOX
from raybox_actors.session import Session
from raybox_actors.values import ItemOutcome, ItemRequest
from tests.actors.driving import inside, namespace_of, parse
from tests.security.conftest import Attacker, OpenAttacker, OpenSession
from tests.support.components import parent
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool


def test_only_the_sandbox_s_processes_are_seen(attacker: Attacker) -> None:
    code = "import os; sorted(int(n) for n in os.listdir('/proc') if n.isdigit())"
    seen = attacker.value(code)
    assert seen[0] == 1
    assert len(seen) == 2


def test_processes_of_the_host_cannot_be_signalled(attacker: Attacker) -> None:
    """By their numbers on the host, which mean nothing inside."""
    code = f"import os\ntry:\n    os.kill({os.getpid()}, 0)\nexcept OSError as error:\n    print(type(error).__name__)"
    assert attacker.said(code) == "ProcessLookupError"
    assert (attacker.as_root(code))[1].strip() == "ProcessLookupError"


def test_killing_everybody_reaches_the_sandbox_only(attacker: Attacker) -> None:
    """kill(-1): kernel and agent go, other sandboxes and the host stay."""
    attacker.run("x = 1")
    with pytest.raises(raybox.SandboxException):
        attacker.as_root("import os, signal; os.kill(-1, signal.SIGKILL)")
    assert attacker.error("x")  # that its kernel is gone, or that it is another
    assert attacker.value("2 + 2") == 4
    assert attacker.as_root("print(3 + 3)") == (0, "6\n")


def test_pid_1_cannot_be_killed(attacker: Attacker) -> None:
    """It holds the sandbox; as user and as root, with every signal that has no handler there."""
    assert "PermissionError" in attacker.error("import os; os.kill(1, 9)")
    status, said = attacker.as_root("import os; os.kill(1, 9)")
    assert (status, "Operation not permitted" in said) == (1, True)
    assert Path(f"/proc/{attacker.first_pid}").exists()


def test_root_is_nobody_outside(attacker: Attacker) -> None:
    """uid 0 inside is the first of the slot's host ids."""
    attacker.sandbox.commands.run("sleep 1000", user="root", background=True)
    namespace = namespace_of(attacker.first_pid)
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in inside(namespace) - {attacker.first_pid}}
    assert FIRST_HOST_ID + attacker.slot * IDS_PER_SANDBOX in owners
    assert not [uid for uid in owners if uid < FIRST_HOST_ID]


def test_root_has_only_what_it_needs(attacker: Attacker) -> None:
    """No SYS_ADMIN, SYS_PTRACE, NET_ADMIN, MKNOD, SYS_RESOURCE or anything else that reaches beyond files and ids."""
    _, said = attacker.as_root("print([l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')])")
    inheritable, permitted, effective, bounding, ambient = (int(word, 16) for word in eval(said))
    kept = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31))
    assert (inheritable | ambient, permitted, effective, bounding) == (0, kept, kept, kept)


def test_a_user_has_no_capability_and_cannot_become_root(attacker: Attacker) -> None:
    code = "[l.split()[1].strip('0') for l in open('/proc/self/status') if l.startswith('Cap')]"
    assert attacker.value(code) == [""] * 5
    for call in ("setuid(0)", "setgid(0)", "setgroups([0])", "setreuid(0, 0)"):
        assert "PermissionError" in attacker.error(f"import os; os.{call}")


def test_namespaces_of_a_sandbox_are_not_its_own_to_rule(attacker: Attacker) -> None:
    """Mounts, network and processes belong to the host's user namespace: root inside has no say in them."""
    status, said = attacker.as_root("import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)")
    assert (status, "Operation not permitted" in said) == (1, True)
    code = "import subprocess; print(subprocess.run(['ip', 'link', 'set', 'lo', 'down']).returncode)"
    assert (attacker.as_root(code))[1].splitlines()[-1] != "0"


def test_environment_of_other_processes_holds_no_secret(attacker: Attacker) -> None:
    code = """
import glob
found = []
for path in glob.glob('/proc/[0-9]*/environ'):
    try:
        text = open(path, 'rb').read()
    except OSError:  # pid 1's
        continue
    found += [word for word in (b'RAY_', b'TOKEN', b'API_KEY') if word in text]
print(found)
"""
    status, said = attacker.as_root(code)
    assert (status, said.strip()) == (0, "[]")


def test_a_process_on_its_way_in_cannot_be_robbed(attacker: Attacker) -> None:
    """A new kernel still has the zygote's descriptors while it enters. Who waits for it inside must not get them."""
    thief = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
stolen, tried, stop = [], [], []
def watch():
    known = {int(n) for n in os.listdir('/proc') if n.isdigit()}
    while not stop:
        for pid in {int(n) for n in os.listdir('/proc') if n.isdigit()} - known:
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                continue
            tried.append(pid)
            for number in range(3, 40):
                fd = libc.syscall(438, handle, number, 0)
                if fd >= 0:
                    try:
                        stolen.append(os.readlink(f'/proc/self/fd/{fd}'))
                    except OSError:
                        pass
                    os.close(fd)
            os.close(handle)
thread = threading.Thread(target=watch, daemon=True)
thread.start()
"""
    attacker.run(thief)
    for _ in range(10):
        attacker.sandbox.remove_code_context(attacker.sandbox.create_code_context())
    attacker.run("stop.append(1); thread.join()")
    stolen = attacker.value("sorted(set(stolen))")
    harmless = ("pipe:", "socket:", "anon_inode:[event", "/dev/null", "anon_inode:[pidfd]", "/memfd")
    assert not [name for name in stolen if "ns/" in name or name.startswith(("mnt:", "user:", "pid:", "/sys", "/proc"))]
    assert not [name for name in stolen if not name.startswith(harmless)]


def test_a_kernel_s_pages_do_not_hold_what_others_ran(attackers: OpenAttacker) -> None:
    """Kernels are forked from one zygote, never from each other. The search does not find its own pattern."""
    one, two = attackers(), attackers()
    one.run("secret = 'S' + 'ECRET-of-one' * 3 * len('a'); words = [secret + str(n) for n in range(1000)]")
    code = """
import re
found = False
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        low, high = (int(end, 16) for end in line.split()[0].split('-'))
        if 'rw' in line.split()[1] and high - low < 1 << 28 and '[v' not in line:
            try:
                memory.seek(low)
                found = found or re.search(rb'[E]CRET-of-one[E]CRET-of', memory.read(high - low)) is not None
            except OSError:
                pass
found
"""
    assert one.value(code) is True  # what is there is found
    assert two.value(code) is False


def test_daemons_end_with_their_sandbox(attacker: Attacker) -> None:
    """Double forks, sessions of their own, ignored signals: the pid namespace takes them all."""
    namespace = namespace_of(attacker.first_pid)
    code = """
import os, signal, time
for _ in range(5):
    if not os.fork():
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        time.sleep(1000)
"""
    attacker.run(code)
    wait_until(lambda: len(inside(namespace)) == 7, 5.0, lambda: inside(namespace))
    attacker.note()
    attacker.sandbox.kill()
    assert attacker.left() == []


@pytest.mark.anyio
@pytest.mark.usefixtures("others_served")
async def test_a_cell_that_ignores_signals_is_ended_at_its_timeout(session: OpenSession) -> None:
    driver = await session(timeouts=TimeoutPolicy(interrupt_grace_s=0.2))
    code = "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    cell = await driver.run(code, timeout_s=0.3)
    assert cell.error is not None
    assert cell.error[0] == "ExecutionTimeout"
    assert (await driver.run("1 + 1")).result == "2"


def test_killing_the_kernel_s_group_does_not_reach_the_zygote(attacker: Attacker) -> None:
    """Its parent is outside; inside, it has none."""
    assert attacker.value("import os; os.getppid()") == 0
    attacker.run("import os, signal; os.killpg(0, signal.SIGKILL)")
    assert attacker.value("1 + 1") == 2


def test_priority_is_below_the_actor_s_and_cannot_be_raised(attacker: Attacker) -> None:
    assert attacker.value("import os; os.nice(0)") > os.getpriority(os.PRIO_PROCESS, parent(attacker.walls))
    assert "PermissionError" in attacker.error("import os; os.setpriority(os.PRIO_PROCESS, 0, -10)")
    assert attacker.value("int(open('/proc/self/oom_score_adj').read())") == 800
    assert "PermissionError" in attacker.error("open('/proc/self/oom_score_adj', 'wb', 0).write(b'-500')")


def test_limits_of_a_process_cannot_be_raised(attacker: Attacker) -> None:
    code = "import resource as r; [r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_NOFILE)[1] <= 65_536]"
    assert attacker.value(code) == [(0, 0), True]
    assert "ValueError" in attacker.error("r.setrlimit(r.RLIMIT_CORE, (1, 1))")


def test_signals_from_inside_do_not_reach_the_host_through_a_group(attacker: Attacker) -> None:
    code = "import os, signal; os.getpgid(0) == os.getpid() and os.getsid(0) == os.getpid()"
    assert attacker.value(code) is True


def test_variables_of_other_sandboxes_are_in_nobody_s_memory(running_pool: RunningPool, attacker: Attacker) -> None:
    """Every kernel is a fork of the same zygote, which is asked for each of them with its variables."""
    envs = {f"TOKEN_{number}": f"raybox-secret-{secrets.token_hex(16)}" for number in range(20)}
    with raybox.Sandbox.create(envs=envs, api_url=running_pool.url, api_key=running_pool.api_key) as other:
        other.create_code_context()
        assert other.commands.run("echo $TOKEN_7").stdout.strip() == envs["TOKEN_7"]
        code = """
import re
found = set()
memory = open('/proc/self/mem', 'rb', 0)
for line in open('/proc/self/maps'):
    span, rights, *_ = line.split()
    if rights.startswith('rw'):
        first, last = (int(end, 16) for end in span.split('-'))
        memory.seek(first)
        try:
            found |= set(re.findall(b'raybox' + b'-secret-[0-9a-f]{32}', memory.read(last - first)))
        except OSError:
            pass
len(found)
"""
        context = attacker.sandbox.create_code_context()
        execution = attacker.sandbox.run_code(code, context=context)
        assert execution.error is None, execution.error
        assert execution.text == "0"


#: Prints, sorted, the secrets in all memory of this process that can be read; its own pattern is none.
SEARCH = """
import json, os, re
found = set()
memory = os.open('/proc/self/mem', os.O_RDONLY)
for line in open('/proc/self/maps'):
    span, rights, *_ = line.split()
    first, last = (int(end, 16) for end in span.split('-'))
    if rights.startswith('r') and last - first < 1 << 30 and '[v' not in line:
        try:
            found.update(re.findall(b'raybox' + b'-secret-[a-z]+-[0-9a-f]{32}', os.pread(memory, last - first, first)))
        except OSError:
            pass
print(json.dumps(sorted(secret.decode() for secret in found)))
"""


async def _item(session: Session, kind: str, secrets_of: dict[str, str]) -> ItemOutcome:
    """One that has secrets in all that can be given to it, and looks for everybody's."""
    code = f"{SEARCH}# {secrets_of['code']}"
    if kind == "cell":
        return await _end(session, ItemRequest(secrets_of["id"], code, "cell", env_vars={"S": secrets_of["env"]}))
    if kind == "heavy":
        code += "\nimport numpy"
    name = secrets_of["name"]
    item = ItemRequest(
        secrets_of["id"],
        f"{code}\ninput(), open({name!r}).read()",
        "program",
        stdin=secrets_of["stdin"].encode() + b"\n",
        files={name: secrets_of["file"].encode()},
        env_vars={"S": secrets_of["env"]},
        fetch=(name,),
    )
    return await _end(session, item)


async def _end(session: Session, item: ItemRequest) -> ItemOutcome:
    (end,) = (await session.run_items([item])).ends
    assert isinstance(end, ItemOutcome)
    return end


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["cell", "lean", "heavy"])
async def test_items_of_other_sandboxes_are_in_no_item_s_memory(session: OpenSession, kind: str) -> None:
    """Every item is a fork of a zygote, which is asked for each of them; programs have one of their own, too."""
    one, two = await session(), await session()
    for number in range(6):
        parts = ("code", "env", "stdin", "file", "name", "id")
        own = {part: f"raybox-secret-{part}-{secrets.token_hex(16)}" for part in parts}
        outcome = await _item((one, two)[number % 2].session, kind, own)
        assert outcome.status == "ok", outcome.lines
        events: list[dict[str, Any]] = parse(outcome.lines)
        found = set(json.loads("".join(event["text"] for event in events if event["type"] == "stdout")))
        assert own["env"] in found  # what is there is found
        assert found <= set(own.values())


@pytest.mark.anyio
async def test_what_a_kernel_could_not_start_with_is_in_nobody_s_memory(session: OpenSession) -> None:
    """Why a process cannot enter its sandbox is told by way of the zygote."""
    one, two = await session(), await session()
    for number in range(24):  # short and long, for memory is used again by size
        folder = f"/raybox-secret-cwd-{secrets.token_hex(16)}" * (1 + number)
        with pytest.raises(BadRequest):
            await one.session.create_context("python", folder)
    context = await two.session.create_context("python", None)
    cell = await two.run(SEARCH, context_id=context.context_id)
    assert json.loads(cell.text()) == []
