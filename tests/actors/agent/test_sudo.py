"""`sudo` in real walls, from kernels and from processes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from raybox_actors.agent.values import (
    ProcessEnded,
    ProcessOutput,
    ProcessSelector,
    ProcessSpec,
    ProcessStarted,
    PtySize,
)
from tests.actors.agent.driving import Sandbox
from tests.actors.driving import eventually

pytestmark = pytest.mark.anyio


async def test_a_cell_is_what_starts_the_agent(sandbox: Sandbox) -> None:
    assert sandbox.session._agent.pid is None
    cell = await sandbox.driver.run("!sudo id -u")
    assert cell.text().strip() == "0", cell.events
    assert sandbox.session._agent.pid is not None


async def test_it_comes_back_when_the_agent_died(sandbox: Sandbox) -> None:
    for _ in range(2):
        assert await sandbox.sh("sudo id -un") == "root"
        pid = sandbox.session._agent.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: sandbox.session._agent.pid is None)
        assert (await sandbox.driver.run("!sudo id -un")).text().strip() == "root"


async def test_descriptors_folder_and_status(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir d")
    outcome = await sandbox.run("/bin/bash", "-c", "cd d; echo in | sudo sh -c 'cat; pwd; echo err >&2; exit 5'")
    assert outcome.stdout == "in\n/home/user/d\n"
    assert outcome.output["stderr"] == b"err\n"
    assert outcome.code == 5
    killed = await sandbox.run("/bin/bash", "-c", "sudo sh -c 'kill -9 $$'; echo $?")
    assert killed.stdout == "137\n"
    failed = await sandbox.run("/bin/bash", "-c", "sudo no-such-program")
    assert failed.code == 1
    assert b"sudo: error starting process 'no-such-program'" in failed.output["stderr"]


async def test_the_environment_is_reset(sandbox: Sandbox) -> None:
    secret = {"SECRET": "leaks", "TERM": "xterm"}
    assert await sandbox.sh("sudo sh -c 'echo $SECRET $TERM $HOME $USER $SUDO_USER'", environment=secret) == (
        "xterm /root root user"
    )
    assert await sandbox.sh("sudo -E sh -c 'echo $SECRET'", environment=secret) == "leaks"
    assert await sandbox.sh("sudo --preserve-env=SECRET sh -c 'echo $SECRET'", environment=secret) == "leaks"
    assert await sandbox.sh("sudo A=b sh -c 'echo $A$SECRET'", environment=secret) == "b"
    assert await sandbox.sh("sudo which python") == await sandbox.sh("which python")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sudo -u user id -un", "user"), ("sudo -n -- id -un", "root"), ("sudo -i pwd", "/root"),
        ("sudo -s echo hi", "hi"), ("sudo -v; echo $?", "0"), ("sudo -u user sudo id -u", "0"),
        ("sudo -D /tmp pwd", "/tmp"), ("/usr/bin/sudo id -u", "0"), ("sudo >/dev/null 2>&1; echo $?", "1"),
        ("sudo -u who id 2>&1; true",
        "sudo: invalid username: 'who'"), ("sudo --user=user --login id -un", "user"),
    ],
)  # fmt: skip
async def test_options(sandbox: Sandbox, command: str, says: str) -> None:
    assert await sandbox.sh(command) == says


async def test_signals_are_passed_on(sandbox: Sandbox) -> None:
    script = "sudo sh -c 'trap \"echo terminated; exit 3\" TERM; echo up; while :; do sleep 0.05; done'"
    async with sandbox.agent.start_process(ProcessSpec("/bin/bash", ("-c", f"exec {script}"))) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        assert await anext(events) == ProcessOutput("stdout", b"up\n")
        await sandbox.agent.signal_process(ProcessSelector(pid=started.pid), signal.SIGTERM)
        rest = [event async for event in events]
    assert rest == [ProcessOutput("stdout", b"terminated\n"), ProcessEnded(3, True, "exit status 3", "exit status 3")]


async def test_the_command_ends_with_who_called(sandbox: Sandbox) -> None:
    async with sandbox.agent.start_process(ProcessSpec("/bin/bash", ("-c", "exec sudo sleep 61"))) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        await sandbox.sh("until pgrep -x sleep; do sleep 0.02; done")
        await sandbox.agent.signal_process(ProcessSelector(pid=started.pid), signal.SIGKILL)
        async for _ in events:
            pass
    await sandbox.sh("while pgrep -x sleep; do sleep 0.02; done")
    assert await sandbox.sh("sudo -b sleep 62 >/dev/null 2>&1; sleep 0.1; pgrep -x sleep | wc -l") == "1"


async def test_in_a_terminal(sandbox: Sandbox) -> None:
    spec = ProcessSpec("/bin/bash", ("-i", "-l"), {"TERM": "xterm"}, pty=PtySize(80, 24))
    seen = b""
    async with sandbox.agent.start_process(spec) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        selector = ProcessSelector(pid=started.pid)
        await sandbox.agent.send_input(selector, b"sudo sleep 60\n", pty=True)
        await sandbox.sh("until pgrep -x sleep; do sleep 0.02; done")
        await sandbox.agent.send_input(selector, b"\x03", pty=True)
        await sandbox.sh("while pgrep -x sleep; do sleep 0.02; done")
        await sandbox.agent.send_input(selector, b"sudo id -u; exit\n", pty=True)
        async with asyncio.timeout(10):
            async for event in events:
                seen += event.data if isinstance(event, ProcessOutput) else b""
    assert b"user@sandbox:~$ " in seen
    assert seen.endswith(b"0\r\nlogout\r\n")


async def test_others_may_not(sandbox: Sandbox) -> None:
    outcome = await sandbox.run("/bin/bash", "-c", "sudo -u nobody sudo id")
    assert outcome.code == 1
    assert b"nobody is not allowed to run sudo" in outcome.output["stderr"]


async def test_noise_on_its_socket_harms_nobody(sandbox: Sandbox) -> None:
    noise = (
        "import socket, os, array\n"
        "for words in (b'', b'H', b'x' * 100, b'H\\xff\\xff\\xff\\xff', b'H\\0\\0\\0\\2{}', b'H\\0\\0\\0\\4null'):\n"
        "  for fds in ([], [0], [0, 1, 2, 0], [0] * 10):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect('/run/raybox-sudo.sock')\n"
        "    s.sendmsg([words or b'?'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))]) if fds "
        "else s.send(words or b'?')\n"
        "    s.close()\n"
    )
    await sandbox.sh(f'python -c "{noise}"')
    assert await sandbox.sh("sudo id -u") == "0"
    count = await sandbox.sh("sudo sh -c 'ls /proc/$PPID/fd | wc -l'")
    await sandbox.sh(f'python -c "{noise}"')
    assert await sandbox.sh("sudo sh -c 'ls /proc/$PPID/fd | wc -l'") == count
