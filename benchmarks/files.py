"""Files of 1 kB and of 100 MB, by the agent and over HTTP, against plain `open` inside the same walls."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pool import BenchPool, descendants, pool
from benchmarks.report import Report, main, median_ms, progress
from benchmarks.session import command, options
from benchmarks.session import sandbox as session_of
from raybox import Sandbox

ROUNDS = 100
SMALL = b"x" * 1000
LARGE_MIB = 100
FLAT_MIB = 500
PIECE = bytes(1 << 20)

PLAIN = f"""
import json, time
write, read = [], []
for _ in range({ROUNDS}):
    began = time.perf_counter()
    with open('/home/user/small', 'wb') as file:
        file.write({SMALL!r})
    write.append(time.perf_counter() - began)
    began = time.perf_counter()
    with open('/home/user/small', 'rb') as file:
        assert len(file.read()) == {len(SMALL)}
    read.append(time.perf_counter() - began)
piece = bytes(1 << 20)
began = time.perf_counter()
with open('/home/user/large', 'wb') as file:
    for _ in range({LARGE_MIB}):
        file.write(piece)
write_s = time.perf_counter() - began
began = time.perf_counter()
with open('/home/user/large', 'rb') as file:
    while file.read(1 << 20):
        pass
print(json.dumps([sorted(write)[{ROUNDS // 2}], sorted(read)[{ROUNDS // 2}], write_s, time.perf_counter() - began]))
"""


class Pieces(io.RawIOBase):
    """A file of so many megabytes that are made while it is read."""

    def __init__(self, mib: int) -> None:
        self._left = mib << 20

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._left, len(PIECE))
        buffer[:count] = PIECE[:count]
        self._left -= count
        return count


async def by_agent(report: Report) -> None:
    async with options() as given, session_of(given) as session:
        plain = json.loads(await command(session, "python", "-c", PLAIN))
        agent = session.agent()
        write, read = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            async with agent.open_write("small", "user") as writer:
                await writer.write(SMALL)
                await writer.commit()
            write.append(time.perf_counter() - began)
            began = time.perf_counter()
            async with agent.open_read("small", "user") as reader:
                assert sum([len(piece) async for piece in reader]) == len(SMALL)
            read.append(time.perf_counter() - began)
        began = time.perf_counter()
        async with agent.open_write("large", "user") as writer:
            for _ in range(LARGE_MIB):
                await writer.write(PIECE)
            await writer.commit()
        write_s = time.perf_counter() - began
        began = time.perf_counter()
        async with agent.open_read("large", "user") as reader:
            assert sum([len(piece) async for piece in reader]) == LARGE_MIB << 20
        read_s = time.perf_counter() - began
    for name, seconds in (("write", plain[0]), ("read", plain[1])):
        report.add(f"plain_{name}_ms", seconds * 1e3, f"plain open, {name} 1 kB", "ms")
    for name, seconds in (("write", plain[2]), ("read", plain[3])):
        report.add(f"plain_{name}_mib_s", LARGE_MIB / seconds, f"plain open, {name} {LARGE_MIB} MiB", "MiB/s")
    report.add("agent_write_ms", median_ms(write), "agent, write 1 kB", "ms")
    report.add("agent_read_ms", median_ms(read), "agent, read 1 kB", "ms")
    report.add("agent_write_mib_s", LARGE_MIB / write_s, f"agent, write {LARGE_MIB} MiB", "MiB/s")
    report.add("agent_read_mib_s", LARGE_MIB / read_s, f"agent, read {LARGE_MIB} MiB", "MiB/s")


def by_http(report: Report) -> None:
    with pool(sandboxes=1, warm=1) as running, Sandbox.create() as sandbox:
        write, read = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            sandbox.files.write("small", SMALL)
            write.append(time.perf_counter() - began)
            began = time.perf_counter()
            assert len(sandbox.files.read("small", format="bytes")) == len(SMALL)
            read.append(time.perf_counter() - began)
        report.add("http_write_ms", median_ms(write), "SDK over HTTP, write 1 kB", "ms")
        report.add("http_read_ms", median_ms(read), "SDK over HTTP, read 1 kB", "ms")
        began = time.perf_counter()
        sandbox.files.write("large", Pieces(LARGE_MIB))
        report.add(
            "http_write_mib_s", LARGE_MIB / (time.perf_counter() - began), f"SDK, write {LARGE_MIB} MiB", "MiB/s"
        )
        began = time.perf_counter()
        assert size_of(sandbox.files.read("large", format="stream")) == LARGE_MIB << 20
        report.add("http_read_mib_s", LARGE_MIB / (time.perf_counter() - began), f"SDK, read {LARGE_MIB} MiB", "MiB/s")
        sandbox.files.remove("large")
        before = peaks(running)
        sandbox.files.write("large", Pieces(FLAT_MIB))
        assert size_of(sandbox.files.read("large", format="stream")) == FLAT_MIB << 20
        after = peaks(running)
        for name in after:
            report.add(
                f"{name}_growth_mib", after[name] - before[name], f"{name}, growth by {FLAT_MIB} MiB up and down", "MiB"
            )


def size_of(pieces: Iterator[bytes]) -> int:
    return sum(map(len, pieces))


def peaks(running: BenchPool) -> dict[str, float]:
    """The most that the gateway and the sandbox's actor ever had in memory, in MiB."""
    found: dict[str, float] = {}
    for process in descendants(running.pid):
        name = "gateway" if "ServeReplica" in process.command else "actor" if "SandboxActor" in process.command else ""
        if name:
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            (line,) = [line for line in status if line.startswith("VmHWM")]
            found[name] = max(found.get(name, 0.0), int(line.split()[1]) / 1024)
    assert len(found) == 2, found
    return found


def measure(report: Report) -> None:
    progress("a sandbox without a pool")
    asyncio.run(by_agent(report))
    progress("a pool")
    by_http(report)
    for name in ("write", "read"):
        report.add(
            f"http_{name}_ratio",
            report.figures[f"plain_{name}_mib_s"] / report.figures[f"http_{name}_mib_s"],
            f"SDK over HTTP against plain, {name} {LARGE_MIB} MiB",
            "x",
        )


if __name__ == "__main__":
    main("files", measure, "files of a sandbox")
