"""From `Sandbox.create()` to the first result: with a warm sandbox, and with none left."""

from __future__ import annotations

import sys
import time

from benchmarks.peers import cold_start_s
from benchmarks.pool import BenchPool, pool
from benchmarks.report import Report, main, median_ms, p95_ms, progress
from raybox import Sandbox

ROUNDS = 30
PEER_ROUNDS = 5
#: Between rounds: the end of the last sandbox and the refill after it are measured by `cycles`, not here.
REST_S = 0.25
PLAIN, FRAME = "1+1", "import pandas as pd; pd.DataFrame({'a': [1]})"


def measure(report: Report) -> None:
    progress("cold jupyter_client kernels")
    cold = {cell: [cold_start_s(cell) for _ in range(PEER_ROUNDS)] for cell in (PLAIN, FRAME)}
    warm, refill = both_pools()
    if report.base is not None:
        progress(f"the same of {report.base}")
        against_base(report, (warm, refill), both_pools(report.base))
    for cell, suffix, words in ((PLAIN, "", "first result"), (FRAME, "_frame", "first data frame")):
        peer = median_ms(cold[cell])
        report.add(f"cold{suffix}_ms", peer, f"cold jupyter_client kernel, to {words}", "ms")
        for name, times, label in (("warm", warm, "warm"), ("refill", refill, "no warm sandbox left")):
            report.add(f"{name}{suffix}_ms", median_ms(times[cell]), f"raybox, {label}, to {words}", "ms")
            report.add(f"{name}{suffix}_p95_ms", p95_ms(times[cell]), f"raybox, {label}, to {words}, 95 of 100", "ms")
        report.add(f"warm_speedup{suffix}", peer / median_ms(warm[cell]), f"warm against cold, {words}", "x")
        report.add(f"refill_speedup{suffix}", peer / median_ms(refill[cell]), f"none warm against cold, {words}", "x")


Times = dict[str, list[float]]


def both_pools(python: str = sys.executable) -> tuple[Times, Times]:
    """Seconds to the first result, by cell: with warm sandboxes, and without."""
    progress("a pool with warm sandboxes")
    with pool(4, 2, python) as running:
        warm = {cell: rounds(running, 2, cell) for cell in (PLAIN, FRAME)}
    progress("a pool without")
    with pool(2, 0, python) as running:
        refill = {cell: rounds(running, 0, cell) for cell in (PLAIN, FRAME)}
    return warm, refill


def against_base(report: Report, ours: tuple[Times, Times], base: tuple[Times, Times]) -> None:
    for name, our_times, base_times in zip(("warm", "refill"), ours, base, strict=True):
        for cell, suffix in ((PLAIN, ""), (FRAME, "_frame")):
            before = median_ms(base_times[cell])
            report.add(f"base_{name}{suffix}_ms", before, f"base, {name}{suffix}", "ms")
            report.add(f"{name}{suffix}_of_base", median_ms(our_times[cell]) / before, f"{name}{suffix}, of base", "x")


def rounds(running: BenchPool, warm: int, cell: str) -> list[float]:
    times = []
    for index in range(ROUNDS + 4):
        running.wait_for_warm(warm)
        time.sleep(REST_S)
        began = time.perf_counter()
        sandbox = Sandbox.create()
        try:
            assert sandbox.run_code(cell).results
            if index >= 4:  # the first ones open connections
                times.append(time.perf_counter() - began)
        finally:
            sandbox.kill()
    return times


if __name__ == "__main__":
    main("create", measure, "create a sandbox and get the first result")
