"""What the refill of warm sandboxes costs those that run: latency of their cells meanwhile, and at rest."""

from __future__ import annotations

import threading
import time

from benchmarks.pool import BenchPool, pool
from benchmarks.report import Report, main, median_ms, p95_ms, progress
from raybox import Sandbox

SANDBOXES, WARM = 4, 2
#: What a rollout's steps are like: nothing at all, and some milliseconds of computing.
CELLS = {"plain": "1+1", "busy": "sum(range(1_000_000))"}
CELLS_EACH = 60
TURNS = 3
#: Between the end of one sandbox beside them and the creation of the next.
PAUSE_S = 0.2


def measure(report: Report) -> None:
    with pool(SANDBOXES, WARM) as running, Sandbox.create(timeout=600) as sandbox:
        times: dict[str, list[float]] = {}
        refills = 0
        for turn in range(TURNS):
            progress(f"turn {turn + 1} of {TURNS}")
            running.wait_for_warm(WARM)
            run_cells(sandbox, "rest", times)
            refills += beside_refills(running, sandbox, times)
        report.add("refills", refills, "sandboxes refilled meanwhile")
        for name in CELLS:
            rest, refill = times[f"rest {name}"], times[f"refill {name}"]
            for word, of in (("median", median_ms), ("p95", p95_ms)):
                report.add(f"rest_{name}_{word}_ms", of(rest), f"{name} cell at rest, {word}", "ms")
                report.add(f"refill_{name}_{word}_ms", of(refill), f"{name} cell while the pool refills, {word}", "ms")
                report.add(f"{name}_{word}_ratio", of(refill) / of(rest), f"refill against rest, {name} {word}", "x")


def beside_refills(running: BenchPool, sandbox: Sandbox, times: dict[str, list[float]]) -> int:
    """The same while others come and go, so that warm sandboxes are taken and replaced all the time; how many were."""
    done, made = threading.Event(), [0]

    def come_and_go() -> None:
        while not done.is_set():
            Sandbox.create(timeout=60).kill()
            made[0] += 1
            done.wait(PAUSE_S)

    others = threading.Thread(target=come_and_go)
    others.start()
    try:
        run_cells(sandbox, "refill", times)
    finally:
        done.set()
        others.join()
    running.wait_for_warm(WARM)
    return made[0]


def run_cells(sandbox: Sandbox, when: str, times: dict[str, list[float]]) -> None:
    for name, cell in CELLS.items():
        taken = times.setdefault(f"{when} {name}", [])
        for _ in range(CELLS_EACH):
            began = time.perf_counter()
            sandbox.run_code(cell)
            taken.append(time.perf_counter() - began)


if __name__ == "__main__":
    main("refill", measure, "latency of cells while warm sandboxes are refilled")
