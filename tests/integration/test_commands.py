"""Commands and terminals of a real sandbox, through both clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import e2b
import pytest

import raybox
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool

EXITS: Any = (raybox.CommandExitException, e2b.CommandExitException)
SIZE = raybox.PtySize(rows=20, cols=70)


def name_of_error(call: Callable[[], Any]) -> str:
    """The same in both packages, which have no root in common."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return type(caught.value).__name__


def test_run(sandbox: Any) -> None:
    result = sandbox.commands.run("echo out; echo err >&2; pwd; id -un")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "out\n/home/user\nuser\n", "err\n")
    assert result.error is None
    heard: list[str] = []
    sandbox.commands.run("for i in 1 2 3; do echo $i; sleep 0.05; done", on_stdout=heard.append)
    assert "".join(heard) == "1\n2\n3\n"
    assert len(heard) > 1


def test_environment_directory_and_user(create: Callable[..., Any]) -> None:
    sandbox = create(envs={"GLOBAL": "g", "BOTH": "global"})
    sandbox.files.make_dir("sub")
    run = sandbox.commands.run
    assert run("echo $GLOBAL $BOTH $OWN", envs={"BOTH": "own", "OWN": "ü"}).stdout == "g own ü\n"
    assert run("echo $GLOBAL $BOTH $OWN").stdout == "g global\n"
    assert run("pwd", cwd="sub").stdout == "/home/user/sub\n"
    assert run("pwd", cwd="/tmp").stdout == "/tmp\n"
    assert run("id -un; echo $HOME; pwd", user="root").stdout == "root\n/root\n/root\n"
    assert name_of_error(lambda: run("pwd", cwd="/nowhere")) == "InvalidArgumentException"
    assert name_of_error(lambda: run("pwd", user="nobody-of-this-name")) == "AuthenticationException"


@pytest.mark.parametrize(("line", "code"), [("exit 3", 3), ("kill -9 $$", -1), ("no-such-command", 127)])
def test_exit_codes(sandbox: Any, line: str, code: int) -> None:
    with pytest.raises(EXITS) as caught:
        sandbox.commands.run(f"echo before; {line}")
    assert (caught.value.exit_code, caught.value.stdout) == (code, "before\n")


def test_much_output(sandbox: Any) -> None:
    result = sandbox.commands.run("head -c 20000000 /dev/zero | tr '\\0' x")
    assert len(result.stdout) == 20_000_000
    size = 0

    def count(text: str) -> None:
        nonlocal size
        size += len(text)

    result = sandbox.commands.run("head -c 20000000 /dev/zero | tr '\\0' x", on_stdout=count, retain_output=False)
    assert (size, result.stdout) == (20_000_000, None)
    assert sandbox.commands.run("printf 'ä€😀%.0s' {1..20000}").stdout == "ä€😀" * 20_000


def test_timeout_kills(sandbox: Any) -> None:
    assert name_of_error(lambda: sandbox.commands.run("sleep 1000", timeout=1)) == "TimeoutException"

    def sleeping() -> bool:
        return "sleep 1000" in sandbox.commands.run("ps -eo args | grep -v grep | grep 'sleep 1000' || true").stdout

    wait_until(lambda: not sleeping(), 10, "sleep 1000 is still there")


def test_background(sandbox: Any) -> None:
    handle = sandbox.commands.run("echo started; sleep 1000", background=True, timeout=0)
    listed = {process.pid: process for process in sandbox.commands.list()}
    assert listed[handle.pid].args[-1] == "echo started; sleep 1000"
    assert sandbox.commands.run(f"kill -0 {handle.pid} && echo there").stdout == "there\n"
    handle.disconnect()
    again = sandbox.commands.connect(handle.pid, timeout=0)
    assert again.pid == handle.pid
    assert sandbox.commands.kill(handle.pid) is True
    with pytest.raises(EXITS) as caught:
        again.wait()
    assert caught.value.exit_code == -1
    assert sandbox.commands.kill(handle.pid) is False
    assert handle.pid not in {process.pid for process in sandbox.commands.list()}
    assert name_of_error(lambda: sandbox.commands.connect(4_000_000)) == "NotFoundException"


def test_iterating(sandbox: Any) -> None:
    handle = sandbox.commands.run("echo a; echo b >&2", background=True)
    pieces = list(handle)
    assert "".join(stdout or "" for stdout, _, _ in pieces) == "a\n"
    assert "".join(stderr or "" for _, stderr, _ in pieces) == "b\n"
    assert handle.wait().exit_code == 0


def test_stdin(sandbox: Any) -> None:
    handle = sandbox.commands.run("cat; echo end", background=True, stdin=True)
    handle.send_stdin("one\n")
    sandbox.commands.send_stdin(handle.pid, "ü\n")
    handle.close_stdin()
    assert handle.wait().stdout == "one\nü\nend\n"
    assert sandbox.commands.run("cat; echo no input").stdout == "no input\n"
    assert name_of_error(lambda: sandbox.commands.send_stdin(4_000_000, "x")) == "NotFoundException"


def test_streamed_stdin(sandbox: Any) -> None:
    handle = sandbox.commands.run("head -c 200000 | wc -c", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, (b"x" * 50_000 for _ in range(4)))
    assert handle.wait().stdout.strip() == "200000"


def test_a_sandbox_that_ends_while_a_command_runs(sandbox: Any) -> None:
    handle = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    errors: list[str] = []
    waiting = threading.Thread(target=lambda: errors.append(name_of_error(handle.wait)))
    waiting.start()
    sandbox.kill()
    waiting.join(30)
    assert errors == ["SandboxNotRunningException"]
    assert name_of_error(lambda: sandbox.commands.run("true")) == "SandboxNotRunningException"


def test_pty(sandbox: Any) -> None:
    shown = bytearray()
    handle = sandbox.pty.create(SIZE, envs={"PS1": "> "}, cwd="/tmp")
    sandbox.pty.send_stdin(handle.pid, b"stty size; pwd; echo $TERM\n")
    sandbox.pty.resize(handle.pid, raybox.PtySize(rows=30, cols=90))
    sandbox.pty.send_stdin(handle.pid, b"stty size; exit 4\n")
    with pytest.raises(EXITS) as caught:
        handle.wait(on_pty=shown.extend)
    assert caught.value.exit_code == 4
    for expected in (b"/tmp", b"xterm-256color", b"30 90"):
        assert expected in shown, bytes(shown)


def test_python_in_a_pty(sandbox: Any) -> None:
    shown = bytearray()
    handle = sandbox.pty.create(SIZE)
    for line in (b"exec python3 -q\n", b"print(6 * 7, __import__('sys').stdin.isatty())\n", b"exit()\n"):
        sandbox.pty.send_stdin(handle.pid, line)
    handle.wait(on_pty=shown.extend)
    assert b"42 True" in shown, bytes(shown)


def test_pty_is_killed(sandbox: Any) -> None:
    handle = sandbox.pty.create(SIZE, timeout=0)
    again = sandbox.pty.connect(handle.pid)
    assert sandbox.pty.kill(handle.pid) is True
    for one in (handle, again):
        with pytest.raises(EXITS):
            one.wait()
    assert sandbox.pty.kill(handle.pid) is False


def test_asyncio(async_client: Any) -> None:
    async def program() -> None:
        sandbox = await async_client.create(timeout=120)
        try:
            results = await asyncio.gather(*(sandbox.commands.run(f"sleep 0.1; echo {n}") for n in range(5)))
            assert [result.stdout for result in results] == [f"{n}\n" for n in range(5)]

            events: asyncio.Queue[Any] = asyncio.Queue()
            await sandbox.files.make_dir("w")
            watcher = await sandbox.files.watch_dir("w", on_event=events.put)
            await sandbox.commands.run("echo 1 > w/f")
            async with asyncio.timeout(10):
                assert (await events.get()).name == "f"
            await watcher.stop()

            handle = await sandbox.commands.run("cat", background=True, stdin=True)
            async with sandbox.commands.stream_input(handle.pid) as stdin:
                await stdin.send("a")
                await stdin.send(b"b\n")
            await handle.close_stdin()
            assert (await handle.wait()).stdout == "ab\n"

            shown = bytearray()
            terminal = await sandbox.pty.create(SIZE, on_data=shown.extend)
            await sandbox.pty.send_stdin(terminal.pid, b"exit\n")
            await terminal.wait()
            assert b"exit" in shown
        finally:
            await sandbox.kill()

    asyncio.run(program())


def test_git(sandbox: Any) -> None:
    if sandbox.commands.run("command -v git || true").stdout == "":
        pytest.skip("the template has no git")
    git = sandbox.git
    git.configure_user("Jo", "jo@example.org")
    git.init("bare.git", bare=True, initial_branch="main")
    git.clone("bare.git", "work")
    sandbox.files.write("work/a.txt", "1")
    git.add("work")
    git.commit("work", "one")
    git.push("work", "origin", "main")
    assert git.status("work").is_clean
    assert git.branches("work").current_branch == "main"


def test_metrics(sandbox: Any) -> None:
    def sample() -> Any:
        return sandbox.get_metrics()

    (first, *_) = wait_until(sample, 20)
    assert first.mem_total >= first.mem_used > 0
    assert first.cpu_count >= 1
    assert first.disk_total >= first.disk_used >= 0
