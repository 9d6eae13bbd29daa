"""Commands, terminals and real programs in real sandboxes, through the official client."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import time
import zipfile
from collections.abc import Callable
from typing import Any

import e2b_code_interpreter
import httpx
import pytest
from e2b import CommandExitException, InvalidArgumentException, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize

from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.anyio]


@pytest.fixture
def client() -> Any:
    return e2b_code_interpreter.Sandbox


@pytest.fixture
def async_client() -> Any:
    return e2b_code_interpreter.AsyncSandbox


def test_a_command_and_what_it_says(sandbox: Any) -> None:
    result = sandbox.commands.run("echo out; echo err >&2; pwd; whoami")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n/home/user\nuser\n", "err\n", 0)
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo no >&2; exit 7")
    assert (caught.value.exit_code, caught.value.stderr) == (7, "no\n")
    assert sandbox.commands.run("id -un", user="root").stdout == "root\n"
    result = sandbox.commands.run("echo $A$B; pwd", envs={"A": "1", "B": "é"}, cwd="/tmp")
    assert result.stdout == "1é\n/tmp\n"
    assert sandbox.commands.run("echo -$A-").stdout == "--\n"
    with pytest.raises(InvalidArgumentException, match="does not exist"):
        sandbox.commands.run("true", cwd="/no/such")


def test_variables_of_the_sandbox(create: Callable[..., Any]) -> None:
    sandbox = create(envs={"MINE": "1", "B": "2"})
    assert sandbox.commands.run("echo $MINE$B", envs={"B": "3"}).stdout == "13\n"


def test_a_background_command_is_found_again_and_fed(sandbox: Any) -> None:
    handle = sandbox.commands.run("while read line; do echo got $line; done; echo over", background=True, stdin=True)
    assert handle.pid in [process.pid for process in sandbox.commands.list()]
    assert sandbox.commands.run(f"kill -0 {handle.pid} && echo there").stdout == "there\n"
    handle.disconnect()
    again = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "one\n")
    sandbox.commands.send_stdin(handle.pid, "two\n")
    sandbox.commands.close_stdin(handle.pid)
    assert again.wait().stdout == "got one\ngot two\nover\n"
    wait_until(lambda: handle.pid not in [process.pid for process in sandbox.commands.list()], 20)
    assert sandbox.commands.kill(handle.pid) is False


def test_time_limits_and_kills(sandbox: Any) -> None:
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 61.5", timeout=1)
    wait_until(lambda: "sleep 61.5" not in sandbox.commands.run("ps ax -o args").stdout, 20)
    handle = sandbox.commands.run("sleep 62", background=True)
    assert handle.kill()
    with pytest.raises(CommandExitException) as caught:
        handle.wait()
    assert (caught.value.exit_code, caught.value.error) == (-1, "signal: killed")


def test_output_of_any_size(sandbox: Any) -> None:
    result = sandbox.commands.run("head -c 20000000 /dev/zero | base64 -w0")
    assert hashlib.sha256(result.stdout.encode()).digest() == hashlib.sha256(base64.b64encode(bytes(20000000))).digest()


def test_a_command_ends_with_its_sandbox(create: Callable[..., Any]) -> None:
    sandbox = create()
    handle = sandbox.commands.run("echo up; sleep 60", background=True)
    sandbox.kill()
    begun = time.monotonic()
    with pytest.raises(TimeoutException, match="killed or reached its end of life"):
        handle.wait()
    assert time.monotonic() - begun < 30


async def test_many_commands_at_once(async_client: Any) -> None:
    sandbox = await async_client.create(timeout=120)
    try:
        results = await asyncio.gather(*(sandbox.commands.run(f"echo {number}") for number in range(10)))
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(10)]
        handle = await sandbox.commands.run("cat", background=True, stdin=True)
        await handle.send_stdin("async\n")
        await handle.close_stdin()
        assert (await handle.wait()).stdout == "async\n"
    finally:
        await sandbox.kill()


async def test_an_interactive_python_in_a_terminal(async_client: Any) -> None:
    sandbox = await async_client.create(timeout=120)
    seen = bytearray()
    changed = asyncio.Event()

    def hear(data: bytes) -> None:
        seen.extend(data)
        changed.set()

    async def until(text: bytes) -> None:
        async with asyncio.timeout(30):
            while text not in seen:
                changed.clear()
                await changed.wait()
        seen.clear()

    try:
        terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=hear)
        await sandbox.pty.send_stdin(terminal.pid, b"stty size\n")
        await until(b"24 80")
        await sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=120))
        await sandbox.pty.send_stdin(terminal.pid, b"stty size\n")
        await until(b"40 120")
        await sandbox.pty.send_stdin(terminal.pid, b"PYTHON_BASIC_REPL=1 python3 -q\n")
        await until(b">>> ")
        await sandbox.pty.send_stdin(terminal.pid, b"x = 6 * 7; print('answer', x)\n")
        await until(b"answer 42")
        await terminal.disconnect()
        again = await sandbox.pty.connect(terminal.pid, on_data=hear)
        await sandbox.pty.send_stdin(terminal.pid, b"print('still', x)\n")
        await until(b"still 42")
        await sandbox.pty.send_stdin(terminal.pid, b"exit()\n")
        await sandbox.pty.send_stdin(terminal.pid, b"exit\n")
        assert (await again.wait()).exit_code == 0
    finally:
        await sandbox.kill()


def test_git_on_a_local_bare_repository(sandbox: Any) -> None:
    script = """
    set -e
    git init -q --bare shared.git
    git clone -q shared.git work 2>/dev/null
    cd work
    git config user.name me; git config user.email me@example.org
    echo content > file; git add file; git commit -qm first; git push -q origin HEAD:main
    cd ..; git clone -q -b main shared.git other; cat other/file; git -C other log --format=%s
    """
    assert sandbox.commands.run(script).stdout == "content\nfirst\n"


def test_a_wheel_from_a_local_folder(sandbox: Any) -> None:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("demo_package.py", "def answer():\n    return 42\n")
        info = "demo_package-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-package\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = ["demo_package.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    sandbox.files.write("wheels/demo_package-1.0-py3-none-any.whl", wheel.getvalue())
    sandbox.commands.run("python3 -m pip install -q --no-index --find-links wheels --target site demo-package")
    program = "import demo_package; print(demo_package.answer())"
    assert sandbox.commands.run(f"python3 -c '{program}'", envs={"PYTHONPATH": "site"}).stdout == "42\n"


def test_what_a_sandbox_used_and_what_happened_in_it(create: Callable[..., Any], running_pool: RunningPool) -> None:
    sandbox = create(envs={"A": "1"})
    sandbox.run_code("1 + 1")
    sandbox.run_code("1 / 0")
    with httpx.Client(base_url=running_pool.url, headers={"X-API-KEY": running_pool.api_key}, timeout=30) as raw:

        def logs() -> list[tuple[str, str | None]]:
            answer = raw.get(f"/v2/sandboxes/{sandbox.sandbox_id}/logs")
            assert answer.status_code == 200, answer.text
            return [(one["message"], one["fields"].get("error")) for one in answer.json()["logs"]]

        cell = [("execution started", None), ("execution ended", None)]
        failed = [("execution started", None), ("execution ended", "ZeroDivisionError")]
        wait_until(lambda: logs() == [("sandbox created", None), *cell, *failed], 20, logs)
        (now, *_) = reversed(sandbox.get_metrics())
        assert (now.cpu_count >= 1, now.mem_used > 0, now.disk_total > now.disk_used >= 0) == (True, True, True)
        many = raw.get("/sandboxes/metrics", params={"sandbox_ids": f"{sandbox.sandbox_id},nobody"}).json()["sandboxes"]
        assert list(many) == [sandbox.sandbox_id]
        routing = {
            "E2b-Sandbox-Id": sandbox.sandbox_id,
            "E2b-Sandbox-Port": "49983",
            "X-Access-Token": sandbox._envd_access_token,
        }
        assert raw.get("/envs", headers=routing).json() == {"A": "1"}
        assert raw.get("/metrics", headers=routing).json()["mem_used"] > 0
        sandbox.kill()
        assert logs()[-1] == ("sandbox ended", None)
