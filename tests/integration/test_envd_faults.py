"""The gateway's replica, and a client, killed with SIGKILL in the middle of every operation at once (operations.py).

What was acknowledged stays, what runs goes on and can be found again, and nothing is left open.
"""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import raybox
from tests.integration.conftest import at_rest
from tests.integration.operations import ENDLESS_PORT, OPERATIONS, SHORT_LIFE_S, WEBSOCKET_PORT
from tests.integration.test_envd_ports import WEBSOCKET_SERVER
from tests.support import components
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]

ENDLESS_SERVER = f"""
import http.server, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        while True: self.wfile.write(bytes(10_000)); time.sleep(0.01)
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", {ENDLESS_PORT}), Handler)
server.handle_error = lambda *words: None
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
ESTABLISHED = "01"
BEGUN = {*OPERATIONS, "connect", "killing"}


class Operations:
    """The program of operations.py, and what it has said so far."""

    def __init__(self, sandbox: raybox.Sandbox) -> None:
        command = [sys.executable, "-m", "tests.integration.operations", sandbox.sandbox_id]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        self.begun: dict[str, Any] = {}
        self.had: dict[str, list[Any]] = collections.defaultdict(list)
        self.ended: dict[str, str] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # the last line of one who was killed
                operation, what, value = json.loads(line)
                if what == "begun":
                    self.begun.setdefault(operation, value)
                elif what == "had":
                    self.had[operation].append(value)
                else:
                    self.ended[operation] = value

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def sandbox() -> Iterator[raybox.Sandbox]:
    """With all that the operations need, and something that was acknowledged before."""
    with raybox.Sandbox.create(timeout=300) as made:
        made.files.write("acknowledged", "x" * 100_000)
        made.commands.run("truncate -s 100M big; mkdir many; cd many; touch $(seq 2000)")
        made.run_code(ENDLESS_SERVER)
        made.files.write("server.py", WEBSOCKET_SERVER)
        server = made.commands.run("exec python server.py", background=True, timeout=0)
        assert next(iter(server))[0] == "up\n"
        server.disconnect()
        yield made


@pytest.fixture
def operations(sandbox: raybox.Sandbox) -> Iterator[Operations]:
    started = Operations(sandbox)
    try:
        wait_until(lambda: started.begun.keys() >= BEGUN, 60, lambda: (BEGUN - started.begun.keys(), started.ended))
        yield started
    finally:
        started.kill()


def answers(sandbox: raybox.Sandbox) -> bool:
    with contextlib.suppress(raybox.RayboxError, httpx.HTTPError, OSError):
        return bool(sandbox.commands.run("true").exit_code == 0)
    return False


def held(pool: RunningPool, sandbox: raybox.Sandbox) -> list[str]:
    """What processes inside have open for clients: files, watches, connections to servers. Looked at from outside."""
    walls = components.walls_of(pool, sandbox.sandbox_id)
    found = []
    for pid in components.processes_inside(walls):
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.append(link.readlink().name)
    held = [name for name in found if name in ("big", "uploaded") or "inotify" in name]
    for line in Path(f"/proc/{components.first_inside(walls)}/net/tcp").read_text().splitlines()[1:]:
        ends = {int(end.split(":")[1], 16) for end in line.split()[1:3]}
        if line.split()[3] == ESTABLISHED and ends & {ENDLESS_PORT, WEBSOCKET_PORT}:
            held.append(f"connection {ends}")
    return held


def nothing_was_lost(sandbox: raybox.Sandbox, before: Operations) -> None:
    """Of what `before` had been told; and what it had running runs on, for a client that finds it again."""
    assert sandbox.files.read("acknowledged") == "x" * 100_000
    assert sandbox.files.get_info("big").size == 100 << 20
    assert len(sandbox.files.list("many")) == 2000
    # The counter counts, and ends when it is told to.
    count = sandbox.files.read("count")
    wait_until(lambda: sandbox.files.read("count") != count, 20)
    counter = sandbox.commands.connect(before.begun["process"])
    sandbox.files.write("word", "")
    assert counter.wait().stdout == "over\n"
    # The listener has heard every line that was acknowledged, once, and one more at most; and it still listens.
    sandbox.commands.send_stdin(before.begun["stdin"], "more\n")
    sandbox.commands.close_stdin(before.begun["stdin"])
    wait_until(lambda: sandbox.files.read("heard").endswith("more\n"), 20)
    lines = sandbox.files.read("heard").split()[:-1]
    assert lines == [str(number) for number in range(len(lines))]
    assert len(lines) - len(before.had["stdin"]) in (0, 1)
    # The terminal is there.
    sandbox.pty.send_stdin(before.begun["terminal"], b"touch typed; exit\n")
    wait_until(lambda: sandbox.files.exists("typed"), 20)
    assert sandbox.run_code("server.server_port").text == str(ENDLESS_PORT)


def nothing_was_left(sandbox: raybox.Sandbox, pool: RunningPool, before: Operations) -> None:
    wait_until(lambda: not held(pool, sandbox), 20, lambda: held(pool, sandbox))
    for sandbox_id in before.had["killing"]:
        assert not raybox.Sandbox.kill(sandbox_id), "killed, and acknowledged"

    def others() -> list[str]:
        listed = raybox.Sandbox.list().next_items()
        return [one.sandbox_id for one in listed if one.sandbox_id != sandbox.sandbox_id]

    wait_until(lambda: not others(), SHORT_LIFE_S + 20, others)


def test_a_killed_gateway(sandbox: raybox.Sandbox, running_pool: RunningPool, operations: Operations) -> None:
    components.kill(components.pid_of(running_pool, components.GATEWAY))
    wait_until(lambda: operations.ended.keys() >= {"upload", "download", "watch", "port", "websocket"}, 60)
    assert not operations.had["upload"], "what was not written whole was acknowledged"
    assert all(operations.ended.values()), operations.ended
    wait_until(lambda: answers(sandbox), 30)
    operations.kill()
    assert not operations.had["execution"]
    assert not sandbox.files.exists("interrupted"), "the cell goes on; its client may have come back to it"
    sandbox.restart_code_context(operations.begun["execution"])
    assert sandbox.run_code("1 + 1", context=operations.begun["execution"]).text == "2"
    nothing_was_lost(sandbox, operations)
    nothing_was_left(sandbox, running_pool, operations)


def test_a_killed_client(sandbox: raybox.Sandbox, running_pool: RunningPool, operations: Operations) -> None:
    assert held(running_pool, sandbox)  # or the look would be blind
    operations.kill()
    assert operations.ended == {}
    wait_until(lambda: sandbox.files.exists("interrupted"), 20)
    assert sandbox.run_code("1 + 1", context=operations.begun["execution"]).text == "2"
    nothing_was_lost(sandbox, operations)
    nothing_was_left(sandbox, running_pool, operations)


def test_after_that_the_pool_is_at_rest(running_pool: RunningPool) -> None:
    at_rest(running_pool)
