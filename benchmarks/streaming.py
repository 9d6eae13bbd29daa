"""A file of 500 MB into a sandbox and out of it: how fast, and how much memory it takes on the way.

The peer is the same HTTP stack with nothing behind it: a bare uvicorn application that discards what it gets and sends
what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator

import httpx
import uvicorn
from starlette.types import Receive, Scope, Send

from benchmarks.pool import BenchPool, descendants, memory_mib, pool, processes
from benchmarks.report import Report, main, progress

FILE_BYTES = 500 * 1000 * 1000
PIECE = os.urandom(250_000)
#: Buffers, pools of connections and what else is made once.
WARM_UP_BYTES = 50 * 1000 * 1000
SAMPLE_S = 0.02
LIMIT_S = 300.0


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // len(PIECE)):
        yield PIECE


class Growth:
    """How much private memory a process had at most, beyond what it had at first."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._first = {name: memory_mib(pid)[0] for name, pid in pids.items()}
        self._most = dict(self._first)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Growth:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            for name, pid in self._pids.items():
                with contextlib.suppress(OSError):
                    self._most[name] = max(self._most[name], memory_mib(pid)[0])

    def mib(self, name: str) -> float:
        return self._most[name] - self._first[name]


def upload(client: httpx.Client, size: int) -> float:
    """Megabytes per second."""
    began = time.perf_counter()
    answer = client.post(
        "/files",
        params={"path": "big"},
        content=pieces(size),
        headers={"Content-Type": "application/octet-stream"},
    )
    answer.raise_for_status()
    return size / 1e6 / (time.perf_counter() - began)


def download(client: httpx.Client, size: int, *, check: bool) -> float:
    digest, received = hashlib.sha256(), 0
    began = time.perf_counter()
    with client.stream("GET", "/files", params={"path": "big"}, headers={"Accept-Encoding": "identity"}) as answer:
        answer.raise_for_status()
        for piece in answer.iter_raw():
            received += len(piece)
            if check:
                digest.update(piece)
    took_s = time.perf_counter() - began
    assert received == size
    assert not check or digest.digest() == hashlib.sha256(b"".join(pieces(size))).digest()
    return size / 1e6 / took_s


async def nothing_behind(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["method"] == "GET":
        for piece in pieces(FILE_BYTES):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def bare_server() -> Iterator[str]:
    """In a process of its own, as the gateway is."""
    pid, port = _fork_server()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _fork_server() -> tuple[int, int]:
    server = uvicorn.Server(uvicorn.Config(nothing_behind, port=0, lifespan="off", log_config=None, access_log=False))
    bound = server.config.bind_socket()
    port: int = bound.getsockname()[1]
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(server.serve(sockets=[bound]))
        finally:
            os._exit(0)
    bound.close()
    return pid, port


def process_ids(running: BenchPool) -> dict[str, int]:
    table = processes()
    tree = descendants(running.pid, table)
    (gateway,) = [one.pid for one in tree if "ServeReplica" in one.command]
    (actor,) = [one.pid for one in tree if "SandboxActor" in one.command]
    return {"gateway": gateway, "actor": actor}


def measure(report: Report) -> None:
    progress("a bare server")
    with bare_server() as url, httpx.Client(base_url=url, timeout=LIMIT_S) as client:
        bare_up, bare_down = upload(client, FILE_BYTES), download(client, FILE_BYTES, check=False)
    progress("a sandbox")
    with pool(sandboxes=1, warm=1) as running:
        keys = {"X-API-KEY": running.api_key}
        made = httpx.post(f"{running.url}/v2/sandboxes", json={"templateID": "base"}, headers=keys, timeout=60).json()
        routing = {
            "E2b-Sandbox-Id": made["sandboxID"],
            "E2b-Sandbox-Port": "49983",
            "X-Access-Token": made["envdAccessToken"],
        }
        with httpx.Client(base_url=running.url, headers=routing, timeout=LIMIT_S) as client:
            upload(client, WARM_UP_BYTES)
            download(client, WARM_UP_BYTES, check=False)
            with Growth(process_ids(running)) as growth:
                up = upload(client, FILE_BYTES)
                down = download(client, FILE_BYTES, check=False)
            download(client, FILE_BYTES, check=True)
        httpx.delete(f"{running.url}/sandboxes/{made['sandboxID']}", headers=keys, timeout=60)
    report.add("upload_mb_per_s", up, "upload of 500 MB", "MB/s")
    report.add("download_mb_per_s", down, "download of 500 MB", "MB/s")
    report.add("bare_upload_mb_per_s", bare_up, "upload, the bare server", "MB/s")
    report.add("bare_download_mb_per_s", bare_down, "download, the bare server", "MB/s")
    report.add("upload_ratio", up / bare_up, "upload against the bare server", "x")
    report.add("download_ratio", down / bare_down, "download against the bare server", "x")
    report.add("gateway_growth_mib", growth.mib("gateway"), "growth of the gateway's memory", "MiB")
    report.add("actor_growth_mib", growth.mib("actor"), "growth of the actor's memory", "MiB")


if __name__ == "__main__":
    main("streaming", measure, "a file of 500 MB into a sandbox and out of it")
