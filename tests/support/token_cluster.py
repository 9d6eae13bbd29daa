"""A Ray cluster of one node as operators start it: `ray start`, a token, a dashboard with its job server, a label."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from raybox_cluster import cli_processes
from tests.support.listeners import free_port
from tests.support.ray_cluster import LEAN
from tests.support.wait import wait_until

UP_LIMIT_S = 90


@dataclass(frozen=True)
class TokenCluster:
    """address: of its GCS. dashboard: URL of its HTTP API. environment: what a program needs to talk to either."""

    address: str
    dashboard: str
    token: str
    environment: dict[str, str]

    def api(self, method: str, path: str, json: object = None) -> httpx.Response:
        """A call of the dashboard's HTTP API."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.request(method, self.dashboard + path, json=json, headers=headers, timeout=60, trust_env=False)


@contextmanager
def token_cluster(*options: str) -> Iterator[TokenCluster]:
    """`options` are those of `ray start`. Nothing of it is left afterwards."""
    token = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        token_path = Path(folder) / "token"
        token_path.write_text(token)
        token_path.chmod(0o600)
        port, dashboard_port, agent_port = free_port(), free_port(), free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYBOX_"))}
        environment = LEAN | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_path),
            # Where a job's `python` is found.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}",
                    "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
                    # Another Ray of this machine has the usual one, without which no job can be submitted.
                    f"--dashboard-agent-listen-port={agent_port}",
                    "--num-cpus=8", "--object-store-memory=80000000", f"--temp-dir={folder}/r", *options,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=inherited | environment,
            )  # fmt: skip
            try:
                cluster = TokenCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}", token, environment)
                wait_until(lambda: process.poll() is not None or _answers(cluster), UP_LIMIT_S)
                log.seek(0)
                assert process.poll() is None, log.read()
                yield cluster
            finally:
                tree = cli_processes.descendants(process.pid)
                process.terminate()
                process.wait(60)
                wait_until(lambda: not cli_processes.alive(tree), 60, lambda: cli_processes.alive(tree))


def _answers(cluster: TokenCluster) -> bool:
    try:
        return cluster.api("GET", "/api/serve/applications/").is_success
    except httpx.TransportError:
        return False
