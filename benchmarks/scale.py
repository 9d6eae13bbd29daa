"""Bursts, sustained creates, and what coordination costs as the number of live sandboxes grows.

In one pool of 100 sandboxes and a few to spare, first with 10 of them live and then with 100, the same is done: one
ends, another is created and runs a cell. Coordination is what the pool's manager, gateway and node agent and Ray's GCS
and raylet use of the processor meanwhile. When all 100 live, each runs a session of several cells at once with the
others. A pool of 10 tells what the size of a pool costs that nobody uses: every idle Ray worker wakes up a hundred
times a second. After that, what `execute` and `batch` measure, in the same run.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import batch, execute
from benchmarks.pool import BenchPool, Process, descendants, pool
from benchmarks.report import Report, main, progress
from raybox import AsyncSandbox

BURST = 50
FEW, MANY = 10, 100
#: Slots beside the live sandboxes, so that no cycle waits for room.
SPARE, WARM = 4, 2
WARM_UP, CYCLES = 30, 150
CREATES, CREATORS = 300, 4
#: Of a session of one of many.
CELLS = 6
SMALL = ("--memory-mib", "128", "--disk-mib", "32", "--pids-max", "64", "--admission-wait-s", "60")
#: What starting a hundred Ray workers takes on two cores, with room.
START_LIMIT_S = 300.0
#: How the titles of the processes begin, or how their programs are called.
COORDINATION = ("ray::PoolManager", "ray::ServeReplica", "ray::NodeAgent", "gcs_server", "raylet")
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
    measure_growth(report)
    execute.measure(report)
    batch.measure(report)


def measure_growth(report: Report) -> None:
    progress(f"a pool of {FEW}")
    with pool(FEW + SPARE, WARM, options=SMALL) as running:
        [alone] = asyncio.run(coordination(running, [FEW], report))
    progress(f"a pool of {MANY}")
    with pool(MANY + SPARE, WARM, options=SMALL, limit_s=START_LIMIT_S) as running:
        few, many = asyncio.run(coordination(running, [FEW, MANY], report))
    for live, cost in ((FEW, few), (MANY, many)):
        report.add(
            f"coordination_{live}_ms", 1e3 * cost.cpu_s, f"coordination per sandbox, {live} live, CPU time", "ms"
        )
        report.add(f"create_{live}_ms", 1e3 * cost.create_s, f"create, {live} live", "ms")
    beside = f"{MANY} against {FEW} live"
    report.add("coordination_growth", many.cpu_s / few.cpu_s, f"coordination per sandbox, {beside}", "x")
    report.add("create_growth", many.create_s / few.create_s, f"create, {beside}", "x")
    sizes = f"{FEW} live in a pool of {MANY} against one of {FEW}"
    report.add("size_growth", few.cpu_s / alone.cpu_s, f"coordination per sandbox, {sizes}", "x")


@dataclass(frozen=True, slots=True)
class Cost:
    """Per sandbox: CPU seconds of coordination, and the median of seconds until it is created."""

    cpu_s: float
    create_s: float


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


async def coordination(running: BenchPool, numbers: Sequence[int], report: Report) -> list[Cost]:
    """What a sandbox costs while so many live, for each of these growing numbers."""
    sandboxes: list[AsyncSandbox] = []
    costs = []
    for live in numbers:
        sandboxes += [await created() for _ in range(live - len(sandboxes))]
        if live == MANY:
            await sessions(sandboxes, report)
        costs.append(await cost_of_cycles(running, sandboxes))
    await end(sandboxes)
    return costs


async def cost_of_cycles(running: BenchPool, sandboxes: list[AsyncSandbox]) -> Cost:
    parts = [one for one in descendants(running.pid) if Path(one.command.split(" ")[0]).name.startswith(COORDINATION)]
    assert len(parts) == len(COORDINATION), parts
    await cycles(sandboxes, WARM_UP)
    before_s = cpu_s(parts)
    times = await cycles(sandboxes, CYCLES)
    return Cost((cpu_s(parts) - before_s) / CYCLES, statistics.median(times))


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
            code = f"seen.append(own * {cell}); print(own, file=open('own', 'a'), end=' '); int(np.sum(seen))"
            assert (await sandbox.run_code(code)).text == str(number * cell * (cell + 1) // 2), (number, cell)
        kept = await sandbox.run_code("print(open('own').read())")
        assert "".join(kept.logs.stdout).split() == [str(number)] * (CELLS - 1), number

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
