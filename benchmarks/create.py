"""From `Sandbox.create()` to the first result: with a warm sandbox, and with none left."""

from __future__ import annotations

import contextlib
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
    pythons = [sys.executable] if report.base is None else [sys.executable, report.base]
    progress("with warm sandboxes")
    warm, *base_warm = in_turns(pythons, 4, 2)
    progress("without")
    refill, *base_refill = in_turns(pythons, 2, 0)
    for name, ours, bases in (("warm", warm, base_warm), ("refill", refill, base_refill)):
        for base in bases:
            against_base(report, name, ours, base)
    for cell, suffix, words in ((PLAIN, "", "first result"), (FRAME, "_frame", "first data frame")):
        peer = median_ms(cold[cell])
        report.add(f"cold{suffix}_ms", peer, f"cold jupyter_client kernel, to {words}", "ms")
        for name, times, label in (("warm", warm, "warm"), ("refill", refill, "no warm sandbox left")):
            report.add(f"{name}{suffix}_ms", median_ms(times[cell]), f"raybox, {label}, to {words}", "ms")
            report.add(f"{name}{suffix}_p95_ms", p95_ms(times[cell]), f"raybox, {label}, to {words}, 95 of 100", "ms")
        report.add(f"warm_speedup{suffix}", peer / median_ms(warm[cell]), f"warm against cold, {words}", "x")
        report.add(f"refill_speedup{suffix}", peer / median_ms(refill[cell]), f"none warm against cold, {words}", "x")


Times = dict[str, list[float]]


def in_turns(pythons: list[str], sandboxes: int, warm: int) -> list[Times]:
    """Seconds to the first result of each of these raybox, by cell. They run at the same time and take turns, so that
    what else happens on the machine hits them all."""
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(pool(sandboxes, warm, python)) for python in pythons]
        times: list[Times] = [{} for _ in pools]
        for cell in (PLAIN, FRAME):
            for index in range(ROUNDS + 4):
                for running, found in zip(pools, times, strict=True):
                    taken_s = one_round(running, warm, cell)
                    if index >= 4:  # the first ones open connections
                        found.setdefault(cell, []).append(taken_s)
        return times


def against_base(report: Report, name: str, ours: Times, base: Times) -> None:
    for cell, suffix in ((PLAIN, ""), (FRAME, "_frame")):
        before = median_ms(base[cell])
        report.add(f"base_{name}{suffix}_ms", before, f"base, {name}{suffix}", "ms")
        report.add(f"{name}{suffix}_of_base", median_ms(ours[cell]) / before, f"{name}{suffix}, of base", "x")


def one_round(running: BenchPool, warm: int, cell: str) -> float:
    running.address()
    running.wait_for_warm(warm)
    time.sleep(REST_S)
    began = time.perf_counter()
    sandbox = Sandbox.create()
    try:
        assert sandbox.run_code(cell).results
        return time.perf_counter() - began
    finally:
        sandbox.kill()


if __name__ == "__main__":
    main("create", measure, "create a sandbox and get the first result")
