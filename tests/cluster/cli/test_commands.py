"""The command line from outside: one clear line for everything that cannot be done, and nothing left half started."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raybox_cluster import cli_processes
from tests.support.pool import raybox
from tests.support.wait import wait_until

HEAVY = ("ray", "fastapi", "httpx", "uvicorn", "yaml", "starlette")


@pytest.fixture
def home(tmp_path: Path) -> str:
    return str(tmp_path / "home")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("raybox: ")
    return lines[0]


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    program = f"import sys, raybox_cluster.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_command() -> None:
    done = raybox("--help")
    assert done.returncode == 0
    assert {"up", "down", "status", "run", "key", "doctor"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("up", "--port", "eighty"), "port: must be a whole number"),
        (("up", "--warm", "9", "--sandboxes", "3"), "warm: 9 sandboxes"),
        (("up", "--prot", "1"), "No such option"),
        (("up", "--config", "/nowhere/pool.yaml"), "No such file"),
        (("up", "--address", "ray://localhost:1"), "address: a Ray client address"),
        (("down", "--address", "local"), "address: must name a Ray cluster"),
        (("frobnicate",), "No such command"),
        (("run",), "give either a FILE or -c CODE"),
        (("run", "-c", "1", "file.py"), "give either a FILE or -c CODE"),
        (("run", "/nowhere/file.py"), "No such file"),
        (("run", "-c", "1"), "no pool is up"),
        (("status",), "no pool is up"),
        (("status", "--name", "two"), "no pool called two is up"),
        (("status", "--url", "127.0.0.1:1", "--api-key", "k"), "must begin with http"),
        (("status", "--url", "http://127.0.0.1:1"), "no API key for http://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done(home: str, arguments: tuple[str, ...], says: str) -> None:
    assert says in is_one_line(raybox(*arguments, RAYBOX_HOME=home))


def test_a_bad_value_in_the_file(home: str, tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text("sandboxes: many\n")
    line = is_one_line(raybox("up", "--config", str(tmp_path / "pool.yaml"), RAYBOX_HOME=home))
    assert "sandboxes must be a whole number" in line


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_a_taken_port(home: str, taken_port: int, detach: tuple[str, ...]) -> None:
    line = is_one_line(raybox("up", "--port", str(taken_port), *detach, RAYBOX_HOME=home))
    assert f"port {taken_port} on 127.0.0.1 is taken" in line
    assert not list(Path(home, "run").glob("*.json"))


def test_no_ray_at_the_address(home: str) -> None:
    line = is_one_line(raybox("up", "--address", f"127.0.0.1:{closed_port()}", RAYBOX_HOME=home))
    assert "no Ray answers at 127.0.0.1:" in line
    assert not list(Path(home, "run").glob("*.json"))


def test_nothing_answers() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    assert f"nothing answers at {url}" in is_one_line(raybox("status", "--url", url, "--api-key", "k"))
    assert f"nothing answers at {url}" in is_one_line(raybox("run", "-c", "1", "--url", url, "--api-key", "k"))


def test_a_key_and_its_hash() -> None:
    from raybox_cluster.gateway.auth import hash_key

    first, second = (raybox("key").stdout.split() for _ in range(2))
    assert [first[0], first[2]] == ["key", "sha256"]
    assert first[1].startswith("e2b_")
    assert first[3] == hash_key(first[1])
    assert first[1] != second[1]


def test_status_says_why_a_node_hosts_nothing() -> None:
    from raybox_actors.values import NodeStatus, PoolStatus
    from raybox_cluster.cli_status import render

    nodes = [
        NodeStatus("a" * 56, True, True, 2),
        NodeStatus("c" * 56, True, True, 1, draining=True),
        NodeStatus("d" * 56, True, False, 0, hosts=False),
        NodeStatus("e" * 56, True, False, 0),
        NodeStatus("b" * 56, True, False, 0, "this node falls short: cgroups"),
    ]
    shown = render("http://x", asdict(PoolStatus(nodes, {"warm": 2}, 2, 2, 0, 0))).splitlines()
    assert shown[-6:] == [
        f"  {'a' * 12}  ready, 2 slots",
        f"  {'c' * 12}  draining, 1 slots",
        f"  {'d' * 12}  hosts none, 0 slots",
        f"  {'e' * 12}  free, 0 slots",
        f"  {'b' * 12}  not used, 0 slots",
        "    this node falls short: cgroups",
    ]


@pytest.mark.parametrize(("counts", "line"), [((3, 0), "leases     3"), ((3, 1), "leases     3, 1 of dead owners")])
def test_status_tells_of_leases(counts: tuple[int, int], line: str) -> None:
    from raybox_actors.values import PoolStatus
    from raybox_cluster.cli_status import render

    assert line in render("http://x", asdict(PoolStatus([], {}, 2, 2, 0, 0, *counts))).splitlines()


class _Stranger(BaseHTTPRequestHandler):
    """Answers everything with 401, or with what is not raybox's."""

    def do_GET(self) -> None:
        self.send_response(401 if self.headers["X-API-KEY"] == "wrong" else 200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Stranger)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_wrong_key(stranger: str) -> None:
    line = is_one_line(raybox("status", "--url", stranger, "--api-key", "wrong"))
    assert "does not accept this API key" in line


def test_something_else_answers(stranger: str) -> None:
    assert "is not raybox" in is_one_line(raybox("status", "--url", stranger, "--api-key", "other"))


def test_down_without_a_pool_is_fine(home: str) -> None:
    done = raybox("down", RAYBOX_HOME=home)
    assert (done.returncode, done.stderr) == (0, "no pool is up\n")


def test_down_clears_away_after_a_pool_that_was_killed_and_touches_nobody_else(home: str) -> None:
    """A record whose process is gone, one process that carries its marker, one that has reused its pid."""
    raybox("down", RAYBOX_HOME=home)  # makes the folder
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    left_over = subprocess.Popen(sleeper, env={cli_processes.MARKER: "0123"})
    bystander = subprocess.Popen(sleeper, env={cli_processes.MARKER: "4567"})
    try:
        wait_until(lambda: cli_processes.marked("0123") and cli_processes.marked("4567"), 10)
        record = {
            "name": "raybox", "url": "http://127.0.0.1:1", "api_key": "k", "ray_address": "", "own_ray": True,
            "pid": bystander.pid, "pid_started": cli_processes.started_ticks(bystander.pid) - 1, "marker": "0123",
            "folder": "", "token_path": "", "log": "", "started_at_s": 0.0, "started_serve": False, "ready": True,
        }  # fmt: skip
        path = Path(home, "run", "raybox.json")
        path.write_text(json.dumps(record))
        done = raybox("down", RAYBOX_HOME=home)
        assert (done.returncode, done.stderr) == (0, "raybox had ended already; cleared away what it left behind\n")
        assert left_over.wait(10) == -9
        assert bystander.poll() is None
        assert not path.exists()
    finally:
        for process in (left_over, bystander):
            process.kill()
            process.wait()


def test_the_folder_of_records_is_private(home: str) -> None:
    raybox("down", RAYBOX_HOME=home)
    assert Path(home, "run").stat().st_mode & 0o777 == 0o700


def test_the_guard_ends_what_outlives_the_process_it_watches(tmp_path: Path) -> None:
    marker, folder = f"guard{tmp_path.stat().st_ino}", tmp_path / "raybox-folder"
    folder.mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time; from raybox_cluster import cli_processes\n"
            f"os.environ[cli_processes.MARKER] = {marker!r}\n"
            f"cli_processes.start_guard({marker!r}, {str(folder)!r})\n"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
            "print('up', flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        wait_until(lambda: len(cli_processes.marked(marker)) == 2, 10, lambda: cli_processes.marked(marker))
        holder.kill()
        wait_until(lambda: not cli_processes.marked(marker), 10, lambda: cli_processes.marked(marker))
        assert not folder.exists()
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def test_a_program_that_has_joined_our_ray_is_its_users(tmp_path: Path) -> None:
    """`raybox down` ends what has files of our Ray open, but a driver keeps its log open when it has left."""
    program = "import sys; files = [open(path, 'w') for path in sys.argv[1:]]; print(flush=True); sys.stdin.read()"
    agent, driver = ["dashboard_agent.log"], ["event_CORE_WORKER_7.log", "python-core-driver-01.log"]
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", program, *(tmp_path / name for name in held)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for held in (agent, driver)
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None
            holder.stdout.readline()
        assert [one.pid for one in cli_processes.holding(str(tmp_path))] == [holders[0].pid]
    finally:
        for holder in holders:
            holder.communicate(b"")
