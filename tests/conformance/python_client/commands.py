"""Commands, terminals, git."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from e2b import CommandExitException, NotFoundException, PtySize

from .programs import Client, Differs, Mismatch, kinds, needs, program, same, that


@program
async def commands_run(c: Client) -> None:
    result = await c.done((await c.sandbox()).commands.run("echo out; echo err >&2; pwd; whoami"))
    same((result.stdout, result.stderr, result.exit_code), ("out\n/home/user\nuser\n", "err\n", 0))


@program
async def commands_exit_code(c: Client) -> None:
    error = await c.raised((lambda run: lambda: run("echo no >&2; exit 7"))((await c.sandbox()).commands.run))
    that(isinstance(error, CommandExitException), f"typed: {error!r}")
    same((getattr(error, "exit_code", None), getattr(error, "stderr", None)), (7, "no\n"))


@program
async def commands_callbacks(c: Client) -> None:
    seen: list[tuple[str, str]] = []
    await c.done(
        (await c.sandbox()).commands.run(
            "echo 1; echo 2 >&2",
            on_stdout=lambda text: seen.append(("out", text)),
            on_stderr=lambda text: seen.append(("err", text)),
        )
    )
    same(sorted(seen), [("err", "2\n"), ("out", "1\n")])


@program
async def commands_envs_cwd_user(c: Client) -> None:
    commands = (await c.sandbox()).commands
    await c.done(commands.run("mkdir -p place"))
    result = await c.done(commands.run("echo $A; pwd", envs={"A": "é"}, cwd="place"))
    same(result.stdout, "é\n/home/user/place\n")
    same((await c.done(commands.run("echo -$A-; id -un; pwd", user="root"))).stdout, "--\nroot\n/root\n")
    error = await c.raised(lambda: commands.run("true", cwd="/no/such"))
    that("InvalidArgumentException" in kinds(error), f"no folder: {error!r}")
    same((await c.done(commands.run("sudo id -un"))).stdout, "root\n")


@program
async def commands_timeout(c: Client) -> None:
    commands = (await c.sandbox()).commands
    error = await c.raised(lambda: commands.run("sleep 61.25", timeout=0.5))
    that("TimeoutException" in kinds(error), f"a timeout: {error!r}")
    deadline = time.monotonic() + 20
    while "sleep 61.25" in (await c.done(commands.run("ps ax -o args"))).stdout:
        that(time.monotonic() < deadline, "it is killed")


@program
async def commands_background(c: Client) -> None:
    commands = (await c.sandbox()).commands
    handle = await c.done(commands.run("echo up; sleep 60", background=True))
    that(handle.pid in [one.pid for one in await c.done(commands.list())], "it is listed")
    same((await c.done(commands.run(f"kill -0 {handle.pid} && echo there"))).stdout, "there\n")
    same(await c.done(handle.kill()), True)
    error = await c.raised(handle.wait)
    that(isinstance(error, CommandExitException), f"typed: {error!r}")
    same((getattr(error, "exit_code", None), getattr(error, "error", None)), (-1, "signal: killed"))
    same(await c.done(commands.kill(handle.pid)), False)


@program
async def commands_connect_and_stdin(c: Client) -> None:
    commands = (await c.sandbox()).commands
    needs(commands, "run", "stdin")
    handle = await c.done(commands.run("read a; echo got $a; read b; echo got $b", background=True, stdin=True))
    await c.done(handle.disconnect())
    again = await c.done(commands.connect(handle.pid))
    await c.done(commands.send_stdin(handle.pid, "one\n"))
    await c.done(commands.send_stdin(handle.pid, "two\n"))
    same((await c.done(again.wait())).stdout, "got one\ngot two\n")
    error = await c.raised(lambda: commands.connect(999_999))
    that(isinstance(error, NotFoundException), f"not found: {error!r}")


@program
async def commands_close_stdin(c: Client) -> None:
    commands = (await c.sandbox()).commands
    needs(commands, "close_stdin")
    handle = await c.done(commands.run("cat", background=True, stdin=True))
    await c.done(commands.send_stdin(handle.pid, "text"))
    await c.done(commands.close_stdin(handle.pid))
    same((await c.done(handle.wait())).stdout, "text")


@program
async def commands_stream_input(c: Client) -> None:
    commands = (await c.sandbox()).commands
    needs(commands, "stream_input")
    handle = await c.done(commands.run("head -n 2", background=True, stdin=True))
    if c.asynchronous:
        async with commands.stream_input(handle.pid) as stream:
            await stream.send("one\n")
            await stream.send(b"two\n")
    else:
        commands.stream_input(handle.pid, ["one\n", b"two\n"])
    same((await c.done(handle.wait())).stdout, "one\ntwo\n")


@program
async def commands_much_output(c: Client) -> None:
    result = await c.done((await c.sandbox()).commands.run("head -c 3000000 /dev/zero | base64 -w0"))
    same(len(result.stdout), 4_000_000)


@program
async def commands_of_a_killed_sandbox(c: Client) -> None:
    sandbox = await c.create()
    handle = await c.done(sandbox.commands.run("echo up; sleep 60", background=True))
    await c.done(sandbox.kill())
    error = await c.raised(handle.wait)
    if "TimeoutException" not in kinds(error):
        raise Differs(f"the error is {type(error).__name__}: this client does not ask why its stream was cut")


class Terminal:
    """A terminal whose output is kept."""

    def __init__(self, client: Client, pty: Any) -> None:
        self.client, self.pty = client, pty
        self.seen = bytearray()
        self.handle: Any = None

    def _hear(self, handle: Any) -> None:
        for _, _, data in handle:
            if data:
                self.seen.extend(data)

    async def _listen(self, how: Any, *arguments: Any, **options: Any) -> None:
        if self.client.asynchronous:
            self.handle = await how(*arguments, on_data=self.seen.extend, **options)
        else:
            self.handle = how(*arguments, **options)
            threading.Thread(target=self._hear, args=(self.handle,), daemon=True).start()

    async def start(self, **options: Any) -> None:
        await self._listen(self.pty.create, PtySize(rows=24, cols=80), **options)

    async def again(self) -> None:
        await self._listen(self.pty.connect, self.handle.pid)

    async def type(self, text: str) -> None:
        await self.client.done(self.pty.send_stdin(self.handle.pid, text.encode()))

    async def until(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text.encode() not in self.seen:
            if time.monotonic() > deadline:
                raise Mismatch(f"{bytes(self.seen[-200:])!r} instead of {text!r}")
            await asyncio.sleep(0.01)
        self.seen.clear()


@program
async def pty_size_and_input(c: Client) -> None:
    pty = (await c.sandbox()).pty
    terminal = Terminal(c, pty)
    await terminal.start(cwd="/tmp", envs={"A": "own"})
    await terminal.type("stty size; echo $A-$TERM; pwd\n")
    await terminal.until("24 80\r\nown-xterm-256color\r\n/tmp")
    await c.done(pty.resize(terminal.handle.pid, PtySize(rows=40, cols=120)))
    await terminal.type("stty size\n")
    await terminal.until("40 120")
    same(await c.done(pty.kill(terminal.handle.pid)), True)


@program
async def pty_python(c: Client) -> None:
    pty = (await c.sandbox()).pty
    terminal = Terminal(c, pty)
    await terminal.start()
    await terminal.type("PYTHON_BASIC_REPL=1 python3 -q\n")
    await terminal.until(">>> ")
    await terminal.type("print('answer', 6 * 7)\n")
    await terminal.until("answer 42")
    await c.done(pty.kill(terminal.handle.pid))


@program
async def pty_connect(c: Client) -> None:
    pty = (await c.sandbox()).pty
    needs(pty, "connect")
    terminal = Terminal(c, pty)
    await terminal.start()
    await terminal.type("echo first-$((1 + 1))\n")
    await terminal.until("first-2")
    if c.asynchronous:
        await terminal.handle.disconnect()
    await terminal.again()
    await terminal.type("echo again-$((1 + 2))\n")
    await terminal.until("again-3")
    await c.done(pty.kill(terminal.handle.pid))
    same(await c.done(pty.kill(terminal.handle.pid)), False)


@program
async def git_commit_and_branches(c: Client) -> None:
    sandbox = await c.sandbox()
    git = sandbox.git
    await c.done(git.init("repo", initial_branch="main"))
    await c.done(git.configure_user("me", "me@example.org"))
    await c.done(sandbox.files.write("repo/f", "x"))
    status = await c.done(git.status("repo"))
    same([(one.name, one.status) for one in status.file_status], [("f", "untracked")])
    await c.done(git.add("repo"))
    await c.done(git.commit("repo", "first"))
    that((await c.done(git.status("repo"))).is_clean, "nothing to commit")
    await c.done(git.create_branch("repo", "other"))
    branches = await c.done(git.branches("repo"))
    same((sorted(branches.branches), branches.current_branch), (["main", "other"], "other"))
    await c.done(git.checkout_branch("repo", "main"))
    await c.done(git.delete_branch("repo", "other"))
    same(await c.done(git.get_config("user.name", scope="global")), "me")


@program
async def git_push_pull_clone(c: Client) -> None:
    sandbox = await c.create()
    git = sandbox.git
    await c.done(git.init("shared.git", bare=True, initial_branch="main"))
    await c.done(git.configure_user("me", "me@example.org"))
    await c.done(git.init("work", initial_branch="main"))
    await c.done(sandbox.files.write("work/f", "1"))
    await c.done(git.add("work"))
    await c.done(git.commit("work", "first"))
    await c.done(git.remote_add("work", "origin", "/home/user/shared.git"))
    same(await c.done(git.remote_get("work", "origin")), "/home/user/shared.git")
    await c.done(git.push("work", remote="origin", branch="main"))
    await c.done(git.clone("/home/user/shared.git", path="other"))
    same(await c.done(sandbox.files.read("other/f")), "1")
    await c.done(sandbox.files.write("work/f", "2"))
    await c.done(git.add("work"))
    await c.done(git.commit("work", "second"))
    await c.done(git.push("work", remote="origin", branch="main"))
    await c.done(git.pull("other"))
    same(await c.done(sandbox.files.read("other/f")), "2")
