"""Processes and terminals inside real walls (contract 4.5)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import (
    ProcessEnded,
    ProcessOutput,
    ProcessSelector,
    ProcessSpec,
    ProcessStarted,
    PtySize,
)
from tests.actors.agent.driving import Sandbox, until
from tests.actors.driving import eventually

pytestmark = pytest.mark.anyio

CAT = ProcessSpec("/bin/cat")


async def test_a_command_runs_as_the_user_in_their_home(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(
        "/bin/bash", "-l", "-c", "id -un; pwd; echo $HOME $USER $LOGNAME; echo oops >&2; exit 3"
    )
    assert outcome.stdout.splitlines() == ["user", "/home/user", "/home/user user user"]
    assert outcome.output["stderr"] == b"oops\n"
    assert outcome.end == ProcessEnded(3, True, "exit status 3", "exit status 3")


async def test_a_command_runs_as_root(sandbox: Sandbox) -> None:
    assert await sandbox.sh("id -u; echo $HOME; cd; pwd", user="root", cwd="/tmp") == "0\n/root\n/root"


async def test_programs_give_way_and_the_agent_does_not(sandbox: Sandbox) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for user in ("user", "root", "user"):  # by the agent itself, and by its launcher
        assert int(await sandbox.sh("nice", user=user)) == min(19, own + 5)
    assert sandbox.session._agent.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, sandbox.session._agent.pid) == own


async def test_success_has_no_error(sandbox: Sandbox) -> None:
    assert (await sandbox.run("true")).end == ProcessEnded(0, True, "exit status 0", None)


async def test_death_by_a_signal(sandbox: Sandbox) -> None:
    outcome = await sandbox.run("/bin/bash", "-c", "kill -9 $$")
    assert outcome.end == ProcessEnded(-1, False, "signal: killed", "signal: killed")


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"cwd": "/nowhere"}, "invalid_argument", "cwd '/nowhere' does not exist"),
        ({"cwd": "nowhere"}, "invalid_argument", "cwd '/home/user/nowhere' does not exist"),
        ({"user": "nobody2"}, "unauthenticated", "invalid username: 'nobody2'"),
        ({"command": "/bin/nothing"}, "invalid_argument", "error starting process"),
        ({"command": "no-such-program"}, "invalid_argument", "error starting process"),
        ({"command": "/etc/passwd"}, "invalid_argument", "error starting process"),
        ({"command": ""}, "invalid_argument", "a command"),
        ({"command": "a\0b"}, "invalid_argument", "a command"),
        ({"environment": {"A=B": "c"}}, "invalid_argument", "environment variable"),
        ({"pty": PtySize(-1, 24)}, "invalid_argument", "a terminal has"),
        ({"arguments": ("x" * (5 << 20),)}, "invalid_argument", "the limit is"),
        ({"arguments": ("x" * (3 << 20),)}, "invalid_argument", "error starting process"),
    ],
)
async def test_what_cannot_be_started_says_why(
    sandbox: Sandbox, fields: dict[str, Any], code: str, message: str
) -> None:
    command, arguments = fields.pop("command", "/bin/true"), fields.pop("arguments", ())
    with pytest.raises(AgentError) as caught:
        await sandbox.run(command, *arguments, **fields)
    assert caught.value.code == code
    assert message in str(caught.value)


async def test_environments_do_not_mix(sandbox: Sandbox) -> None:
    await sandbox.session.configure({"SANDBOX": "s", "BOTH": "s"})
    assert await sandbox.sh("echo $SANDBOX $BOTH $MINE", environment={"BOTH": "r", "MINE": "m"}) == "s r m"
    assert await sandbox.sh("echo $SANDBOX $BOTH $MINE") == "s s"
    await sandbox.session.configure({"LATER": "l"})
    assert await sandbox.sh("echo $SANDBOX $LATER; echo $MPLBACKEND") == "s l"


async def test_input_and_its_end(sandbox: Sandbox) -> None:
    async with sandbox.agent.start_process(CAT) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        selector = ProcessSelector(pid=started.pid)
        await sandbox.agent.send_input(selector, b"one", pty=False)
        assert await anext(events) == ProcessOutput("stdout", b"one")
        await sandbox.agent.close_stdin(selector)
        assert await anext(events) == ProcessEnded(0, True, "exit status 0", None)
    with pytest.raises(AgentError) as caught:
        await sandbox.agent.send_input(selector, b"two", pty=False)
    assert (caught.value.code, str(caught.value)) == ("not_found", f"process with pid {started.pid} not found")


async def test_more_input_than_a_pipe_holds(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 8192
    seen = b""
    async with sandbox.agent.start_process(CAT) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)

        async def feed() -> None:
            await sandbox.agent.send_input(ProcessSelector(pid=started.pid), data, pty=False)
            await sandbox.agent.close_stdin(ProcessSelector(pid=started.pid))

        feeding = asyncio.create_task(feed())
        async for event in events:
            if isinstance(event, ProcessOutput):
                assert len(event.data) <= 32 * 1024
                seen += event.data
        await feeding
    assert seen == data


async def test_input_that_nobody_reads_can_be_given_up(sandbox: Sandbox) -> None:
    async with sandbox.agent.start_process(ProcessSpec("/bin/sleep", ("60",))) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        selector = ProcessSelector(pid=started.pid)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await sandbox.agent.send_input(selector, bytes(1 << 20), pty=False)
        # And its turn with it.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await sandbox.agent.send_input(selector, b"x", pty=False)
        await sandbox.agent.signal_process(selector, signal.SIGKILL)


async def test_without_stdin_it_is_empty(sandbox: Sandbox) -> None:
    assert (await sandbox.run("/bin/cat", stdin=False)).stdout == ""


async def test_processes_are_listed_while_they_live(sandbox: Sandbox) -> None:
    spec = ProcessSpec("/bin/sleep", ("60",), {"A": "b"}, cwd="/tmp", tag="nap", timeout_s=50)
    async with sandbox.agent.start_process(spec) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        (info,) = await sandbox.agent.list_processes()
        assert (info.pid, info.spec) == (started.pid, spec)
        assert await sandbox.sh(f"kill -0 {info.pid} && echo lives") == "lives"
        await sandbox.agent.signal_process(ProcessSelector(tag="nap"), signal.SIGTERM)
        assert await anext(events) == ProcessEnded(-1, False, "signal: terminated", "signal: terminated")
    assert await sandbox.agent.list_processes() == []


async def test_a_list_of_long_commands_is_cut_and_not_refused(sandbox: Sandbox) -> None:
    long = tuple("x" * 100_000 for _ in range(12))
    async with contextlib.AsyncExitStack() as stack:
        for number in range(5):
            spec = ProcessSpec("/bin/bash", ("-c", "sleep 60", *long), tag=f"t{number}")
            await anext(await stack.enter_async_context(sandbox.agent.start_process(spec)))
        listed = await sandbox.agent.list_processes()
    assert [info.spec.tag for info in listed] == ["t0", "t1", "t2", "t3", "t4"]
    assert [len(info.spec.arguments) for info in listed] == [14, 14, 14, 0, 0]


async def test_a_process_outlives_its_client_and_is_attached_to_again(sandbox: Sandbox) -> None:
    script = "echo before; read line; echo after $line; exit 7"
    async with sandbox.agent.start_process(ProcessSpec("/bin/bash", ("-c", script))) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        assert await anext(events) == ProcessOutput("stdout", b"before\n")
    selector = ProcessSelector(pid=started.pid)
    async with sandbox.agent.connect_process(selector) as one, sandbox.agent.connect_process(selector) as two:
        await sandbox.agent.send_input(selector, b"all\n", pty=False)
        for events in (one, two):
            said = [event async for event in events]
            assert said == [
                started,
                ProcessOutput("stdout", b"after all\n"),
                ProcessEnded(7, True, "exit status 7", "exit status 7"),
            ]
    async with sandbox.agent.connect_process(selector) as late:
        assert [event async for event in late] == [started, said[-1]]


async def test_output_of_a_process_without_clients_is_dropped(sandbox: Sandbox) -> None:
    script = "head -c 3000000 /dev/zero; touch done; sleep 60"
    async with sandbox.agent.start_process(ProcessSpec("/bin/bash", ("-c", script))) as events:
        await anext(events)

    async def done() -> bool:
        with contextlib.suppress(AgentError):
            return bool(await sandbox.agent.stat("done", "user"))
        return False

    await until(done)


async def test_a_slow_client_holds_the_process_up_and_gets_everything(sandbox: Sandbox) -> None:
    spec = ProcessSpec("/bin/bash", ("-c", "head -c 5000000 /dev/zero; touch done"))
    async with sandbox.agent.start_process(spec) as events:
        await anext(events)
        await asyncio.sleep(0.3)
        with pytest.raises(AgentError):
            await sandbox.agent.stat("done", "user")
        seen = 0
        async for event in events:
            seen += len(event.data) if isinstance(event, ProcessOutput) else 0
    assert seen == 5_000_000
    assert await sandbox.agent.stat("done", "user")


async def test_the_end_waits_for_who_holds_the_output(sandbox: Sandbox) -> None:
    outcome = await sandbox.run("/bin/bash", "-c", "(sleep 0.2; echo late) & echo early; exit 5")
    assert outcome.stdout == "early\nlate\n"
    assert outcome.code == 5


async def test_a_timeout_kills_the_group(sandbox: Sandbox) -> None:
    spec = ProcessSpec("/bin/bash", ("-c", "sleep 61 & echo $!; sleep 62"), timeout_s=0.3)
    async with sandbox.agent.start_process(spec) as events:
        await anext(events)
        first = await anext(events)
        assert isinstance(first, ProcessOutput)
        with pytest.raises(AgentError) as caught:
            await anext(events)
    assert caught.value.code == "deadline_exceeded"
    assert await sandbox.sh(f"while kill -0 {int(first.data)} 2>/dev/null; do sleep 0.01; done; echo gone") == "gone"


async def test_a_terminal(sandbox: Sandbox) -> None:
    spec = ProcessSpec("/bin/bash", ("-i", "-l"), {"TERM": "xterm-256color", "PS1": "$ "}, pty=PtySize(101, 37))
    seen = b""
    async with sandbox.agent.start_process(spec) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        selector = ProcessSelector(pid=started.pid)

        async def printed(words: bytes) -> None:
            nonlocal seen
            async with asyncio.timeout(10):
                while words not in seen:
                    event = await anext(events)
                    assert isinstance(event, ProcessOutput), event
                    assert event.stream == "pty"
                    assert len(event.data) <= 16 * 1024
                    seen += event.data

        await sandbox.agent.send_input(selector, b"stty size; tty; test -O $(tty) && echo my''own\n", pty=True)
        await printed(b"myown")
        assert b"37 101" in seen
        assert b"/dev/pts/" in seen
        await sandbox.agent.resize(selector, PtySize(80, 24))
        await sandbox.agent.send_input(selector, b"stty size\n", pty=True)
        await printed(b"24 80")
        await sandbox.agent.send_input(selector, b"sleep 60; echo int''errupted\n", pty=True)
        await printed(b"sleep 60; echo")
        await asyncio.sleep(0.1)
        await sandbox.agent.send_input(selector, b"\x03", pty=True)
        await printed(b"^C")
        with pytest.raises(AgentError) as caught:
            await sandbox.agent.close_stdin(selector)
        assert caught.value.code == "failed_precondition"
        await sandbox.agent.send_input(selector, b"exit 4\n", pty=True)
        rest = [event async for event in events]
    assert rest[-1] == ProcessEnded(4, True, "exit status 4", "exit status 4")


async def test_unknown_processes_and_signals(sandbox: Sandbox) -> None:
    for selector in (ProcessSelector(pid=4_000_000), ProcessSelector(tag="none")):
        for call in (
            sandbox.agent.signal_process(selector, 9),
            sandbox.agent.resize(selector, PtySize(1, 1)),
            sandbox.agent.close_stdin(selector),
            sandbox.agent.send_input(selector, b"", pty=False),
        ):
            with pytest.raises(AgentError) as caught:
                await call
            assert caught.value.code == "not_found"
            assert str(caught.value).startswith("process with ")
    async with sandbox.agent.start_process(CAT) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        with pytest.raises(AgentError) as caught:
            await sandbox.agent.signal_process(ProcessSelector(pid=started.pid), 1000)
        assert caught.value.code == "unimplemented"
        with pytest.raises(AgentError) as caught:
            await sandbox.agent.signal_process(ProcessSelector(), 9)
        assert caught.value.code == "invalid_argument"


async def test_processes_end_with_the_agent_and_the_next_call_has_a_new_one(sandbox: Sandbox) -> None:
    async with sandbox.agent.start_process(ProcessSpec("/bin/sleep", ("61",))) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        pid = sandbox.session._agent.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(AgentError) as caught:
            await anext(events)
    assert caught.value.code == "unavailable"
    await eventually(lambda: sandbox.session._agent.pid is None)
    assert await sandbox.sh("pgrep -x sleep || echo none") == "none"
    assert sandbox.session._agent.pid not in (None, pid)
    assert await sandbox.agent.list_processes() == []


async def test_of_many_inputs_none_is_lost(sandbox: Sandbox) -> None:
    """Each is one operation whose end may arrive while its bytes are being written."""
    async with sandbox.agent.start_process(ProcessSpec("/bin/cat")) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        selector = ProcessSelector(pid=started.pid)
        async with asyncio.timeout(60):
            for number in range(1_000):
                await sandbox.agent.send_input(selector, b"%d\n" % number, pty=False)
            await sandbox.agent.close_stdin(selector)
            output = b"".join([event.data async for event in events if isinstance(event, ProcessOutput)])
    assert output == b"".join(b"%d\n" % number for number in range(1_000))


async def test_what_was_killed_cannot_be_killed_again(sandbox: Sandbox) -> None:
    for _ in range(20):
        async with sandbox.agent.start_process(ProcessSpec("/bin/sleep", ("60",))) as events:
            started = await anext(events)
            assert isinstance(started, ProcessStarted)
            selector = ProcessSelector(pid=started.pid)
            await sandbox.agent.signal_process(selector, signal.SIGKILL)
            with pytest.raises(AgentError) as raised:
                await sandbox.agent.signal_process(selector, signal.SIGKILL)
            assert raised.value.code == "not_found"
