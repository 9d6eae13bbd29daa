"""The gateway's replica, and a client, killed with SIGKILL while files and commands stream.

What was acknowledged stays, what runs goes on, and nothing is left open inside.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import e2b_code_interpreter
import httpx
import pytest
from e2b import SandboxException

from tests.support import components
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]

#: Counts, so that its life can be seen, and waits for a word.
COUNTER = "n=0; while ! [ -e word ]; do n=$((n+1)); echo $n > count; sleep 0.05; done; echo over"

CLIENT = """
import sys, threading, time, httpx
from e2b_code_interpreter import Sandbox
sandbox = Sandbox.connect(sys.argv[1])

def endless():
    while True:
        yield bytes(300_000)
        print("piece", flush=True)
        time.sleep(0.02)

def upload():
    routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983",
               "X-Access-Token": sandbox._envd_access_token, "Content-Type": "application/octet-stream"}
    httpx.post(sys.argv[2] + "/files", params={"path": sys.argv[4]}, content=endless(), headers=routing, timeout=None)

threading.Thread(target=upload, daemon=True).start()
sandbox.commands.run(sys.argv[3], timeout=0)
"""


@pytest.fixture
def client() -> Any:
    return e2b_code_interpreter.Sandbox


@pytest.fixture
def part() -> str:
    """A name that no other file of this machine has."""
    return f"part-{secrets.token_hex(8)}"


def is_open(name: str) -> bool:
    """Whether any process has a file of this name open. Looked at from outside: the agent cannot be looked into."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().name == name:
                return True
    return False


def answers(sandbox: Any) -> bool:
    with contextlib.suppress(SandboxException, httpx.HTTPError, OSError):
        return bool(sandbox.commands.run("true").exit_code == 0)
    return False


def finishes(sandbox: Any, pid: int) -> None:
    """The counter still counts, and ends when it is told to, for a client that found it again."""
    before = sandbox.files.read("count")
    wait_until(lambda: sandbox.files.read("count") != before, 20)
    handle = sandbox.commands.connect(pid)
    sandbox.files.write("word", "")
    assert handle.wait().stdout == "over\n"


def test_a_killed_gateway(sandbox: Any, running_pool: RunningPool, part: str) -> None:
    sandbox.files.write("acknowledged", "x" * 100_000)
    pid = sandbox.commands.run(COUNTER, background=True).pid
    flowing = threading.Event()
    outcome: list[object] = []

    def endless() -> Iterator[bytes]:
        for number in range(100_000):
            yield bytes(100_000)
            if number == 50:
                flowing.set()
            if number > 50:  # or the disk would be full before anything is killed
                time.sleep(0.01)

    def upload() -> None:
        routing = {
            "E2b-Sandbox-Id": sandbox.sandbox_id,
            "E2b-Sandbox-Port": "49983",
            "X-Access-Token": sandbox._envd_access_token,
            "Content-Type": "application/octet-stream",
        }
        try:
            outcome.append(
                httpx.post(f"{running_pool.url}/files?path={part}", content=endless(), headers=routing, timeout=60)
            )
        except httpx.TransportError as error:
            outcome.append(error)

    uploading = threading.Thread(target=upload)
    uploading.start()
    assert flowing.wait(30)
    wait_until(lambda: is_open(part), 20)
    components.kill(components.pid_of(running_pool, components.GATEWAY))
    uploading.join(60)
    assert isinstance(outcome[0], httpx.TransportError)  # and never an answer that says it was written
    wait_until(lambda: answers(sandbox), 30)
    assert sandbox.files.read("acknowledged") == "x" * 100_000
    wait_until(lambda: not is_open(part), 20)
    finishes(sandbox, pid)


def test_a_killed_client(sandbox: Any, running_pool: RunningPool, part: str) -> None:
    arguments = [sys.executable, "-c", CLIENT, sandbox.sandbox_id, running_pool.url, COUNTER, part]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        for _ in range(10):
            assert other.stdout.readline() == "piece\n"
        wait_until(lambda: sandbox.files.exists("count"), 20)
        wait_until(lambda: is_open(part), 20)
        other.kill()
    wait_until(lambda: not is_open(part), 20)
    assert sandbox.files.get_info(part).size > 0
    (process,) = [one for one in sandbox.commands.list() if COUNTER in " ".join(one.args)]
    finishes(sandbox, process.pid)
