"""Bursts, sustained creates, and what coordination costs as the number of live sandboxes grows.

A pool of 10 live sandboxes and one of 100, each with some slots to spare, do the same: one sandbox ends, another is
created and runs a cell. Coordination is what the pool's manager, gateway and node agent and Ray's GCS and raylet use of
the processor meanwhile. While all 100 live, each also runs a session of several cells at once with the others.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pool import BenchPool, Process, descendants, pool
from benchmarks.report import Report, main, progress
from raybox import AsyncSandbox

BURST = 50
FEW, MANY = 10, 100
#: Slots beside the live sandboxes, so that no cycle waits for room.
SPARE, WARM = 4, 2
CYCLES = 100
CREATES, CREATORS = 300, 4
#: Cells of a session of one of many, and how many sessions start at once.
CELLS = 6
SMALL = ("--memory-mib", "128", "--disk-mib", "32", "--pids-max", "64", "--admission-wait-s", "60")
#: What starting a hundred Ray workers takes on two cores, with room.
START_LIMIT_S = 300.0
#: How the titles of the processes begin, or what their command lines have in them.
COORDINATION = ("ray::PoolManager", "ray::ServeReplica", "ray::NodeAgent", "gcs_server", "raylet/raylet")
TIMEOUT_S = 1_200
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def measure(report: Report) -> None:
    progress(f"{BURST} warm sandboxes")
    with pool(BURST, BURST, options=SMALL, limit_s=START_LIMIT_S):
        report.add("burst_50_s", asyncio.run(burst(BURST)), f"burst of {BURST} creates, all warm", "s")
    progress(f"{BURST} idle ones")
    with pool(BURST, 0, options=SMALL, limit_s=START_LIMIT_S):
        report.add("burst_50_cold_s", asyncio.run(burst(BURST)), f"burst of {BURST} creates, none warm", "s")
    progress(f"{CREATES} creates and kills, {CREATORS} at a time")
    with pool(2 * CREATORS, CREATORS, options=SMALL):
        report.add("creates_per_s", asyncio.run(sustained()), "creates and kills per second, sustained")
    costs = {}
    for live in (FEW, MANY):
        progress(f"{live} live sandboxes")
        with pool(live + SPARE, WARM, options=SMALL, limit_s=START_LIMIT_S) as running:
            costs[live] = asyncio.run(coordination(running, live, report))
    for live, (cpu_s, create_s) in costs.items():
        report.add(f"coordination_{live}_ms", 1e3 * cpu_s, f"coordination per sandbox, {live} live, CPU time", "ms")
        report.add(f"create_{live}_ms", 1e3 * create_s, f"create, {live} live", "ms")
    (few_cpu_s, few_create_s), (many_cpu_s, many_create_s) = costs[FEW], costs[MANY]
    report.add(
        "coordination_growth", many_cpu_s / few_cpu_s, f"coordination per sandbox, {MANY} against {FEW} live", "x"
    )
    report.add("create_growth", many_create_s / few_create_s, f"create, {MANY} against {FEW} live", "x")


async def created() -> AsyncSandbox:
    return await AsyncSandbox.create(timeout=TIMEOUT_S, request_timeout=120)


async def end(sandboxes: Sequence[AsyncSandbox]) -> None:
    await asyncio.gather(*(one.kill() for one in sandboxes))


async def burst(count: int) -> float:
    """Seconds until the last of so many creates, asked for at once, has its sandbox."""
    began = time.perf_counter()
    sandboxes = await asyncio.gather(*(created() for _ in range(count)))
    took_s = time.perf_counter() - began
    assert len({one.sandbox_id for one in sandboxes}) == count
    await end(sandboxes)
    return took_s


async def sustained() -> float:
    async def creator() -> None:
        for _ in range(CREATES // CREATORS):
            await (await created()).kill()

    await asyncio.gather(*(creator() for _ in range(CREATORS)))  # until the pool is in its steady state
    began = time.perf_counter()
    await asyncio.gather(*(creator() for _ in range(CREATORS)))
    return CREATES / (time.perf_counter() - began)


async def coordination(running: BenchPool, live: int, report: Report) -> tuple[float, float]:
    """CPU seconds of coordination per sandbox, and the median of seconds per create, while so many live."""
    sandboxes = [await created() for _ in range(live)]
    await sessions(sandboxes, report)
    parts = [
        one
        for one in descendants(running.pid)
        if any(one.command.startswith(p) or p in one.command.split(" ")[0] for p in COORDINATION)
    ]
    await cycles(sandboxes, live)
    before_s = cpu_s(parts)
    times = await cycles(sandboxes, CYCLES)
    used_s = cpu_s(parts) - before_s
    await end(sandboxes)
    return used_s / CYCLES, statistics.median(times)


async def cycles(sandboxes: list[AsyncSandbox], count: int) -> list[float]:
    """The oldest ends and a new one takes its place, so many times; seconds of each create."""
    times = []
    for number in range(count):
        await sandboxes.pop(0).kill()
        began = time.perf_counter()
        sandbox = await created()
        times.append(time.perf_counter() - began)
        sandboxes.append(sandbox)
        assert (await sandbox.run_code(f"{number} + 1")).text == str(number + 1)
    return times


async def sessions(sandboxes: Sequence[AsyncSandbox], report: Report) -> None:
    """Every sandbox runs a session of its own at once with all others, each cell building on the one before."""

    async def session(number: int, sandbox: AsyncSandbox) -> None:
        await sandbox.run_code(f"import numpy as np; own, seen = {number}, []")
        for cell in range(1, CELLS):
            code = f"seen.append(own * {cell}); open('own', 'a').write(f'{{own}} '); int(np.sum(seen))"
            expected = number * cell * (cell + 1) // 2
            assert (await sandbox.run_code(code)).text == str(expected), (number, cell)
        assert (await sandbox.run_code("open('own').read()")).text == f"{number} " * (CELLS - 1)

    began = time.perf_counter()
    await asyncio.gather(*(session(number, one) for number, one in enumerate(sandboxes)))
    count = len(sandboxes)
    report.add(f"sessions_{count}", count, f"sessions at once, each right in all its {CELLS + 1} cells")
    report.add(f"sessions_{count}_s", time.perf_counter() - began, f"{count} sessions at once", "s")


def cpu_s(parts: Sequence[Process]) -> float:
    """That these processes have used since their start."""
    total = 0
    for one in parts:
        fields = Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK_S


if __name__ == "__main__":
    main("scale", measure, "many sandboxes at once")
