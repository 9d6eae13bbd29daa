"""Attacks on the in-sandbox agent: from files that are not what they seem, from users, and on its wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import ProcessOutput, ProcessSelector, ProcessSpec
from tests.actors.agent.driving import Sandbox
from tests.actors.driving import Driver, eventually

pytestmark = pytest.mark.anyio

OpenSession = Callable[..., Awaitable[Driver]]
SECRET = "root's secret"


@pytest.fixture
async def sandbox(session: OpenSession) -> Sandbox:
    """With things that are root's and that `user` may neither read nor change."""
    sandbox = Sandbox(await session())
    await sandbox.sh(
        f"umask 077; mkdir /tmp/vault; echo -n \"{SECRET}\" > /tmp/vault/secret; mkdir /tmp/vault/folder; "
        "echo -n kept > /tmp/vault/folder/file; umask 022; echo -n readable > /tmp/public",
        user="root",
    )  # fmt: skip
    return sandbox


async def intact(sandbox: Sandbox) -> None:
    """Nothing of root's was changed, and nothing was added."""
    listing = await sandbox.sh(
        "cd /tmp; ls -lR --time-style=+ vault public; cat vault/secret vault/folder/file public", user="root"
    )
    assert listing.endswith(f"{SECRET}keptreadable"), listing
    assert "user" not in listing
    assert "srwx" not in listing


async def attack(sandbox: Sandbox, path: str) -> None:
    """Every operation, as `user`: none may show the secret or change what is root's."""
    agent = sandbox.agent
    calls: list[Awaitable[Any]] = [
        agent.stat(path, "user"),
        agent.list_dir(path, 5, "user"),
        sandbox.read(path),
        sandbox.write(path, b"overwritten"),
        sandbox.write(path, b"overwritten", metadata={"a": "b"}),
        sandbox.write(f"{path}/new", b"added"),
        agent.make_dir(f"{path}/made", "user"),
        agent.move(path, "/home/user/stolen", "user"),
        agent.move("/home/user/bait", f"{path}/bait", "user"),
        agent.create_watcher(path, "user", recursive=True, include_entry=True),
        sandbox.run("/bin/cat", "secret", cwd=path),
        agent.remove(f"{path}/folder", "user"),
        agent.remove(f"{path}/", "user"),
    ]
    for call in calls:
        with contextlib.suppress(AgentError):
            found = await call
            assert SECRET not in str(found), call
    await intact(sandbox)


ROOTS = ["/tmp/vault", "/tmp/vault/secret", "/tmp/vault/folder", "/tmp/public"]


@pytest.mark.parametrize("target", ROOTS)
async def test_straight_at_it(sandbox: Sandbox, target: str) -> None:
    await attack(sandbox, target)
    await attack(sandbox, f"/home/user/../../home/../{target}")
    await attack(sandbox, f"../..{target}/.")


@pytest.mark.parametrize("target", [*ROOTS, "/tmp", "/"])
async def test_through_links(sandbox: Sandbox, target: str) -> None:
    inside = "/vault/secret" if target == "/tmp" else "/tmp/vault/secret" if target == "/" else ""
    await sandbox.sh(f"ln -s {target} link; ln -s link further; ln -s ../../..{target} relative; touch bait")
    for name in ("link", "further", "relative"):
        await attack(sandbox, f"/home/user/{name}{inside}")
        await sandbox.sh(f"ln -sfn {target} {name}; touch bait")


async def test_through_hard_links(sandbox: Sandbox) -> None:
    outcome = await sandbox.run("/bin/ln", "/tmp/public", "/tmp/mine")
    await sandbox.sh("ln /tmp/vault/secret /tmp/known; chmod 600 /tmp/known", user="root")
    for path in ("/tmp/known", *(["/tmp/mine"] if outcome.code == 0 else [])):
        await attack(sandbox, path)
    await sandbox.sh("rm -f /tmp/known /tmp/mine", user="root")
    await intact(sandbox)


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
async def test_through_the_links_of_proc(sandbox: Sandbox, magic: str) -> None:
    """Of which /proc/self is the agent's own: it must not be a way to what the agent has open, or may see."""
    await attack(sandbox, f"{magic}/tmp/vault/secret")
    # Root itself is kept from it, for a process may have mounted there what never answers.
    if not magic.endswith("fd"):
        with pytest.raises(AgentError):
            await sandbox.read(f"{magic}/tmp/public", user="root")
        await sandbox.sh(f"ln -s {magic} link")
        with pytest.raises(AgentError):
            await sandbox.read("/home/user/link/tmp/public")


async def test_the_agents_own_descriptors(sandbox: Sandbox) -> None:
    async with sandbox.agent.open_read("/tmp/vault/secret", "root"):
        for number in range(64):
            for path in (f"/proc/self/fd/{number}", f"/dev/fd/{number}"):
                for call in (sandbox.read(path), sandbox.write(path, b"x")):
                    with pytest.raises(AgentError):
                        await call
    for name in ("mem", "environ", "auxv", "maps", "syscall", "stack"):
        with contextlib.suppress(AgentError):
            assert b"TOKEN" not in await sandbox.read(f"/proc/self/{name}", length=1 << 20)
    with pytest.raises(AgentError):
        await sandbox.read("/proc/self/mem", offset=0x400000, length=10)


RACES: dict[str, Callable[[Sandbox, str], Awaitable[Any]]] = {
    "read": lambda sandbox, path: sandbox.read(f"{path}/secret"),
    "write": lambda sandbox, path: sandbox.write(f"{path}/secret", b"raced"),
    "write new": lambda sandbox, path: sandbox.write(f"{path}/folder/new/deep", b"raced"),
    "make_dir": lambda sandbox, path: sandbox.agent.make_dir(f"{path}/folder/made", "user"),
    "remove": lambda sandbox, path: sandbox.agent.remove(f"{path}/folder", "user"),
    "move out": lambda sandbox, path: sandbox.agent.move(f"{path}/secret", "/home/user/out", "user"),
    "move in": lambda sandbox, path: sandbox.agent.move("/home/user/bait", f"{path}/folder/bait", "user"),
    "list": lambda sandbox, path: sandbox.agent.list_dir(path, 3, "user"),
}


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
async def test_races(sandbox: Sandbox, name: str) -> None:
    """A folder of the user's is exchanged for a link to root's, as fast as it can be, while operations go on in it."""
    async with sandbox.agent.start_process(ProcessSpec("python", ("-c", SWAPPING), tag="racer")) as events:
        await anext(events)
        assert isinstance(await anext(events), ProcessOutput)
        for _ in range(300):
            with contextlib.suppress(AgentError):
                found = await RACES[name](sandbox, "/home/user/race")
                assert SECRET not in str(found)
        await sandbox.agent.signal_process(ProcessSelector(tag="racer"), signal.SIGKILL)
    await intact(sandbox)


async def test_root_removing_a_users_tree_is_not_led_astray(sandbox: Sandbox) -> None:
    """The classic: a folder becomes a link between the look and the step into it."""
    fast = (
        "import os\nprint('up', flush=True)\nwhile True:\n"
        " try:\n"
        "  os.makedirs('tree/a/b', exist_ok=True); os.rename('tree/a', 'aside'); os.symlink('/tmp/vault', 'tree/a')\n"
        "  os.unlink('tree/a'); os.rename('aside', 'tree/a')\n"
        " except OSError:\n"
        "  os.system('rm -rf aside')\n"
    )
    async with sandbox.agent.start_process(ProcessSpec("python", ("-c", fast), tag="racer")) as events:
        await anext(events)
        await anext(events)
        for _ in range(300):
            with contextlib.suppress(AgentError):
                await sandbox.agent.remove("/home/user/tree", "root")
        await sandbox.agent.signal_process(ProcessSelector(tag="racer"), signal.SIGKILL)
    await intact(sandbox)


async def test_a_user_can_neither_kill_nor_trace_nor_read_the_agent(sandbox: Sandbox) -> None:
    await sandbox.sh("true")
    inside = int(await sandbox.sh("sudo sh -c 'echo $PPID'"))
    before = sandbox.session._agent.pid
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
    outcome = await sandbox.run("python", "-c", probe)
    assert outcome.stdout == "", outcome
    assert sandbox.session._agent.pid == before
    assert await sandbox.sh("id -un") == "user"


async def test_its_children_have_nothing_of_it(sandbox: Sandbox) -> None:
    """No descriptor, no capability, no environment of the agent's comes to what it starts."""
    async with sandbox.agent.open_read("/tmp/vault/secret", "root"):
        for user in ("user", "root"):
            assert await sandbox.sh("ls /proc/self/fd | wc -w", user=user) in ("4", "5")
    status = await sandbox.sh("grep -E 'Cap|NoNewPrivs' /proc/self/status")
    assert set(status.split()[1::2]) == {"0" * 16, "1"}
    assert "RAY" not in await sandbox.sh("env; cat /proc/$PPID/environ 2>/dev/null || true")


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


@pytest.mark.parametrize("seed", range(6))
async def test_noise_on_its_wire(sandbox: Sandbox, seed: int) -> None:
    """Nobody inside can reach it; but a gateway that is not well must not bring it down either."""
    chance = random.Random(seed)
    before = await sandbox.agent.stat("/tmp/public", "user")
    pid = sandbox.session._agent.pid
    for _ in range(150):
        sock = await sandbox.session.agent_connection()
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
    assert await sandbox.agent.stat("/tmp/public", "user") == before
    assert sandbox.session._agent.pid == pid
    await intact(sandbox)


async def test_connections_that_say_nothing_are_bounded(sandbox: Sandbox) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(await sandbox.session.agent_connection()) for _ in range(1100)]
        assert len(silent) == 1100
        with pytest.raises(AgentError) as caught:
            await sandbox.agent.stat("", "user")
        assert caught.value.code == "resource_exhausted"
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(AgentError):
                await sandbox.agent.stat("", "user")
                break


async def test_an_agent_that_does_not_listen_holds_nobody_for_ever(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybox_actors.agent.process.HAND_OVER_LIMIT_S", 0.1)
    await sandbox.agent.stat("", "user")
    pid = sandbox.session._agent.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    silent: list[socket.socket] = []

    async def knock() -> None:
        while len(silent) < 5000:
            silent.append(await sandbox.session.agent_connection())

    with pytest.raises(AgentError) as caught:
        await knock()
    assert caught.value.code == "unavailable"
    for sock in silent:
        sock.close()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: sandbox.session._agent.pid is None)
    assert await sandbox.agent.stat("", "user")
