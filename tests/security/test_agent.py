"""Attacks on what the in-sandbox agent does for others: by files that are not what they seem, by users, on its wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from raybox import CommandExitException, RayboxError, Sandbox
from raybox_actors.agent.errors import AgentError
from tests.actors.agent.driving import Sandbox as WithoutPool
from tests.actors.driving import eventually
from tests.security.conftest import Attacker, OpenSession

pytestmark = pytest.mark.pool

SECRET = "root's secret"
#: Things that are root's and that `user` may neither read nor change.
PREPARE = (
    f'umask 077; mkdir /tmp/vault; echo -n "{SECRET}" > /tmp/vault/secret; mkdir /tmp/vault/folder; '
    "echo -n kept > /tmp/vault/folder/file; umask 022; echo -n readable > /tmp/public"
)
LOOK = "cd /tmp; ls -lR --time-style=+ vault public; cat vault/secret vault/folder/file public"


@pytest.fixture
def sandbox(attacker: Attacker) -> Sandbox:
    attacker.sandbox.commands.run(PREPARE, user="root")
    return attacker.sandbox


def intact(sandbox: Sandbox) -> None:
    """Nothing of root's was changed, and nothing was added."""
    is_intact(sandbox.commands.run(LOOK, user="root").stdout)


def is_intact(listing: str) -> None:
    assert listing.endswith(f"{SECRET}keptreadable"), listing
    assert "user" not in listing
    assert "srwx" not in listing


def read(sandbox: Sandbox, path: str, user: str = "user") -> str:
    return sandbox.files.read(path, user=user)


def attack(sandbox: Sandbox, path: str) -> None:
    """Every operation, as `user`: none may show the secret or change what is root's."""
    files = sandbox.files
    attempts: list[Callable[[], object]] = [
        lambda: files.get_info(path),
        lambda: files.list(path, depth=5),
        lambda: files.read(path),
        lambda: files.write(path, b"overwritten"),
        lambda: files.write(path, b"overwritten", metadata={"a": "b"}),
        lambda: files.write(f"{path}/new", b"added"),
        lambda: files.make_dir(f"{path}/made"),
        lambda: files.rename(path, "/home/user/stolen"),
        lambda: files.rename("/home/user/bait", f"{path}/bait"),
        lambda: files.watch_dir(path, recursive=True, include_entry=True),
        lambda: sandbox.commands.run("cat secret", cwd=path),
        lambda: files.remove(f"{path}/folder"),
        lambda: files.remove(f"{path}/"),
    ]
    for attempt in attempts:
        with contextlib.suppress(RayboxError):
            assert SECRET not in str(attempt())
    intact(sandbox)


ROOTS = ["/tmp/vault", "/tmp/vault/secret", "/tmp/vault/folder", "/tmp/public"]


@pytest.mark.parametrize("target", ROOTS)
def test_straight_at_it(sandbox: Sandbox, target: str) -> None:
    attack(sandbox, target)
    attack(sandbox, f"/home/user/../../home/../{target}")
    attack(sandbox, f"../..{target}/.")


@pytest.mark.parametrize("target", [*ROOTS, "/tmp", "/"])
def test_through_links(sandbox: Sandbox, target: str) -> None:
    inside = "/vault/secret" if target == "/tmp" else "/tmp/vault/secret" if target == "/" else ""
    for name, destination in (("link", target), ("further", "link"), ("relative", f"../../..{target}")):
        sandbox.commands.run(f"ln -sfn {target} link; ln -sfn {destination} {name}; touch bait")
        attack(sandbox, f"/home/user/{name}{inside}")


def test_through_hard_links(sandbox: Sandbox) -> None:
    sandbox.commands.run("ln /tmp/vault/secret /tmp/known; chmod 600 /tmp/known", user="root")
    paths = ["/tmp/known"]
    with contextlib.suppress(CommandExitException):  # where the kernel protects hard links
        sandbox.commands.run("ln /tmp/public /tmp/mine")
        paths.append("/tmp/mine")
    for path in paths:
        attack(sandbox, path)
    sandbox.commands.run("rm -f /tmp/known /tmp/mine", user="root")
    intact(sandbox)


@pytest.mark.parametrize(
    "magic",
    [
        "/proc/self/root",
        "/proc/self/cwd",
        "/proc/thread-self/root",
        "/proc/1/root",
        "/proc/1/cwd",
        "/dev/fd",
        "/proc/self/fd",
    ],
)
def test_through_the_links_of_proc(sandbox: Sandbox, magic: str) -> None:
    """Of which /proc/self is the agent's own: it must not be a way to what the agent has open, or may see."""
    attack(sandbox, f"{magic}/tmp/vault/secret")
    # Root itself is kept from it, for a process may have mounted there what never answers.
    if not magic.endswith("fd"):
        with pytest.raises(RayboxError):
            read(sandbox, f"{magic}/tmp/public", user="root")
        sandbox.commands.run(f"ln -s {magic} link")
        with pytest.raises(RayboxError):
            read(sandbox, "/home/user/link/tmp/public")


def test_the_agents_own_descriptors(sandbox: Sandbox) -> None:
    sandbox.commands.run("truncate -s 100M /tmp/vault/big", user="root")
    with sandbox.files.read("/tmp/vault/big", "stream", user="root") as held:
        next(held)
        for number in range(32):
            for path in (f"/proc/self/fd/{number}", f"/dev/fd/{number}"):
                with pytest.raises(RayboxError):
                    read(sandbox, path)
                with pytest.raises(RayboxError):
                    sandbox.files.write(path, b"x")
    sandbox.commands.run("rm /tmp/vault/big", user="root")
    for name in ("mem", "environ", "auxv", "maps", "syscall", "stack"):
        with contextlib.suppress(RayboxError):
            assert "TOKEN" not in read(sandbox, f"/proc/self/{name}")
    intact(sandbox)


RACES: dict[str, Callable[[Sandbox, str], object]] = {
    "read": lambda sandbox, path: read(sandbox, f"{path}/secret"),
    "write": lambda sandbox, path: sandbox.files.write(f"{path}/secret", b"raced"),
    "write new": lambda sandbox, path: sandbox.files.write(f"{path}/folder/new/deep", b"raced"),
    "make_dir": lambda sandbox, path: sandbox.files.make_dir(f"{path}/folder/made"),
    "remove": lambda sandbox, path: sandbox.files.remove(f"{path}/folder"),
    "move out": lambda sandbox, path: sandbox.files.rename(f"{path}/secret", "/home/user/out"),
    "move in": lambda sandbox, path: sandbox.files.rename("/home/user/bait", f"{path}/folder/bait"),
    "list": lambda sandbox, path: sandbox.files.list(path, depth=3),
}
RACE_ROUNDS = 300


SWAPPING = """
import os, shutil
def attempt(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        pass
os.makedirs('race')
print('up', flush=True)
while True:
    attempt(os.symlink, '/tmp/vault', 'link')
    for old, new in (('race', 'real'), ('link', 'race'), ('race', 'link'), ('real', 'race')):
        attempt(os.rename, old, new)
    attempt(os.makedirs, 'race/folder')
    if os.path.lexists('real'):
        attempt(shutil.rmtree, 'real')
    for name in ('race/secret', 'bait'):
        attempt(lambda: os.close(os.open(name, os.O_CREAT, 0o644)))
"""


@pytest.mark.parametrize("name", RACES)
def test_races(attacker: Attacker, sandbox: Sandbox, name: str) -> None:
    """A folder of the user's is exchanged for a link to root's, as fast as it can be, while operations go on in it."""
    start(attacker, SWAPPING)
    for _ in range(RACE_ROUNDS):
        with contextlib.suppress(RayboxError):
            assert SECRET not in str(RACES[name](sandbox, "/home/user/race"))
    intact(sandbox)


def start(attacker: Attacker, program: str) -> None:
    """Run it in the background until the sandbox ends; returns when it is under way."""
    code = f"import subprocess, sys\nracer = subprocess.Popen([sys.executable, '-c', {program!r}], stdout=-1)\n"
    assert attacker.value(code + "racer.stdout.readline()") == b"up\n"


def test_root_removing_a_users_tree_is_not_led_astray(attacker: Attacker, sandbox: Sandbox) -> None:
    """The classic: a folder becomes a link between the look and the step into it."""
    fast = (
        "import os\nprint('up', flush=True)\nwhile True:\n"
        " try:\n"
        "  os.makedirs('tree/a/b', exist_ok=True); os.rename('tree/a', 'aside'); os.symlink('/tmp/vault', 'tree/a')\n"
        "  os.unlink('tree/a'); os.rename('aside', 'tree/a')\n"
        " except OSError:\n"
        "  os.system('rm -rf aside')\n"
    )
    start(attacker, fast)
    for _ in range(RACE_ROUNDS):
        with contextlib.suppress(RayboxError):
            sandbox.files.remove("/home/user/tree", user="root")
    intact(sandbox)


def test_a_user_can_neither_kill_nor_trace_nor_read_the_agent(sandbox: Sandbox) -> None:
    agent = "sudo sh -c 'echo $PPID'"
    inside = int(sandbox.commands.run(agent).stdout)
    probe = (
        "import ctypes, os, signal\n"
        "pids = [int(n) for n in os.listdir('/proc') if n.isdigit() and os.stat('/proc/' + n).st_uid != 1000]\n"
        f"assert {inside} in pids\n"
        "for pid in pids:\n"
        "  for number in (9, 15, 19, 0):\n"
        "    try:\n      os.kill(pid, number); print('signalled', pid, number)\n"
        "    except ProcessLookupError: pass\n"
        "    except PermissionError: pass\n"
        "  if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0: print('traced', pid)\n"
        "  if ctypes.CDLL(None).ptrace(0x4206, pid, 0, 0) == 0: print('seized', pid)\n"
        "  for name in ('mem', 'environ', 'maps', 'fd/0', 'root/etc', 'cwd'):\n"
        "    try:\n      open(f'/proc/{pid}/{name}', 'rb').read(1); print('read', pid, name)\n"
        "    except IsADirectoryError: print('entered', pid, name)\n"
        "    except OSError: pass\n"
        "os.kill(-1, 15)\n"
    )
    sandbox.files.write("probe.py", probe)
    assert sandbox.commands.run("exec python probe.py 2>&1").stdout == ""
    assert int(sandbox.commands.run(agent).stdout) == inside
    assert sandbox.commands.run("id -un").stdout == "user\n"


def test_its_children_have_nothing_of_it(sandbox: Sandbox) -> None:
    """No descriptor, no capability, no environment of the agent's comes to what it starts."""

    def said(command: str, user: str = "user") -> str:
        return sandbox.commands.run(command, user=user).stdout

    sandbox.commands.run("truncate -s 100M /tmp/vault/big", user="root")
    with sandbox.files.read("/tmp/vault/big", "stream", user="root") as held:
        next(held)
        for user in ("user", "root"):
            assert said("ls /proc/self/fd | wc -w", user).strip() in ("4", "5")
    status = said("grep -E 'Cap|NoNewPrivs' /proc/self/status")
    assert set(status.split()[1::2]) == {"0" * 16, "1"}
    assert "RAY" not in said("env; cat /proc/$PPID/environ 2>/dev/null || true")


# ---- on its wire, which nobody inside can reach: without the pool, whose gateway is well ----


@pytest.fixture
async def agent_alone(session: OpenSession, others_served: None) -> WithoutPool:
    alone = WithoutPool(await session())
    await alone.sh(PREPARE, user="root")
    return alone


OPERATIONS = [
    "stat", "list_dir", "read", "write", "remove", "move", "start", "connect", "input", "dial", "watch", "signal",
    "create_watcher", "watcher_events", "resize", "close_stdin", "list_processes", "make_dir", "what",
]  # fmt: skip
KEYS = [
    "path", "destination", "user", "depth", "offset", "length", "metadata", "spec", "pid", "tag", "port", "signal",
    "size", "pty", "watcher_id",
]  # fmt: skip
THINGS: list[Any] = [None, 0, -1, 1 << 70, 1.5, "", "x", "/", "\0", "\ud800", [], {}, [[]], {"a": {}}, True, "user"]
SPEC_KEYS = ["command", "arguments", "environment", "cwd", "pty", "tag", "timeout_s", "user", "stdin"]


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(6))
async def test_noise_on_its_wire(agent_alone: WithoutPool, seed: int) -> None:
    """Nobody inside can reach it; but a gateway that is not well must not bring it down either."""
    chance = random.Random(seed)
    before = await agent_alone.agent.stat("/tmp/public", "user")
    pid = agent_alone.session._agent.pid
    for _ in range(150):
        sock = await agent_alone.session.agent_connection()
        with sock, contextlib.suppress(OSError):
            sock.settimeout(5)
            header: dict[str, Any] = {"op": chance.choice(OPERATIONS), "user": "user"}
            header |= {key: chance.choice(THINGS) for key in chance.sample(KEYS, chance.randrange(6))}
            if chance.random() < 0.5:
                header["spec"] = {key: chance.choice(THINGS) for key in SPEC_KEYS}
            payload = json.dumps(header).encode() if chance.random() < 0.9 else chance.randbytes(20)
            length = len(payload) if chance.random() < 0.9 else chance.randrange(1 << 32)
            words = chance.choice([b"H", b"H", b"H", b"D", b"\0"]) + length.to_bytes(4, "big") + payload
            sock.sendall(words + chance.choice([b"", chance.randbytes(chance.randrange(50)), b"C\0\0\0\0"]))
            sock.shutdown(socket.SHUT_WR)
            while await asyncio.to_thread(sock.recv, 65536):
                pass
    assert await agent_alone.agent.stat("/tmp/public", "user") == before
    assert agent_alone.session._agent.pid == pid
    is_intact(await agent_alone.sh(LOOK, user="root"))


@pytest.mark.anyio
async def test_connections_that_say_nothing_are_bounded(agent_alone: WithoutPool) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(await agent_alone.session.agent_connection()) for _ in range(1100)]
        assert len(silent) == 1100
        with pytest.raises(AgentError) as caught:
            await agent_alone.agent.stat("", "user")
        assert caught.value.code == "resource_exhausted"
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(AgentError):
                await agent_alone.agent.stat("", "user")
                break


@pytest.mark.anyio
async def test_an_agent_that_does_not_listen_holds_nobody_for_ever(
    agent_alone: WithoutPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybox_actors.agent.process.HAND_OVER_LIMIT_S", 0.1)
    await agent_alone.agent.stat("", "user")
    pid = agent_alone.session._agent.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    silent: list[socket.socket] = []

    async def knock() -> None:
        while len(silent) < 5000:
            silent.append(await agent_alone.session.agent_connection())

    with pytest.raises(AgentError) as caught:
        await knock()
    assert caught.value.code == "unavailable"
    for sock in silent:
        sock.close()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: agent_alone.session._agent.pid is None)
    assert await agent_alone.agent.stat("", "user")
