"""Create, run, kill, two hundred times; and what is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.pool import Footprint, footprint, pool
from benchmarks.report import Report, main, progress
from raybox import Sandbox

CYCLES = 200


def measure(report: Report) -> None:
    with pool(sandboxes=4, warm=2) as running:
        cycle(20)  # until connections, caches and the pool are in their steady state
        running.wait_for_warm(2)
        before = footprint(running)
        progress(f"{CYCLES} cycles")
        began = time.perf_counter()
        cycle(CYCLES)
        took_s = time.perf_counter() - began
        running.wait_for_warm(2)
        after = at_rest(lambda: footprint(running), before)
    report.add("cycles", CYCLES, "cycles")
    report.add("cycles_per_s", CYCLES / took_s, "cycles per second")
    report.add("leaked_processes", after.processes - before.processes, "leaked processes")
    report.add("leaked_mounts", after.mount_namespaces - before.mount_namespaces, "leaked mount namespaces")
    report.add("leaked_folders", after.folders - before.folders, "leaked files and folders")
    report.add("leaked_actors", after.actors - before.actors, "leaked actors")


def cycle(count: int) -> None:
    for number in range(count):
        sandbox = Sandbox.create()
        assert sandbox.run_code(f"{number} + 1").text == str(number + 1)
        sandbox.kill()


def at_rest(take: Callable[[], Footprint], expected: Footprint) -> Footprint:
    """What stays after a moment: Ray's own helpers may still be ending."""
    deadline = time.monotonic() + 10
    while (now := take()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


if __name__ == "__main__":
    main("cycles", measure, "create, run and kill, again and again")
