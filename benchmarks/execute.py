"""`1+1` in a running sandbox, through the SDK over HTTP and over Ray, against a raw round trip to stock ipykernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import raybox
from benchmarks.peers import run, stock_kernel
from benchmarks.pool import pool
from benchmarks.report import Report, main, median_ms, p95_ms, progress
from raybox import Sandbox

ROUNDS = 300
BLOCKS = 3
WARM_UP = 20


def measure(report: Report) -> None:
    progress("a pool and a stock kernel")
    with pool(sandboxes=1, warm=1) as running, stock_kernel() as client, Sandbox.create() as http, running.joined():
        ray = raybox.connect(f"ray://{running.name}").connect(http.sandbox_id)
        times = in_turns({"raw": lambda: run(client, "1+1"), "http": lambda: add(http), "ray": lambda: add(ray)})
    report.add("raw_ms", median_ms(times["raw"]), "stock ipykernel, raw round trip", "ms")
    for way, words in (("http", "over HTTP"), ("ray", "over Ray")):
        report.add(f"{way}_ms", median_ms(times[way]), f"raybox {words}", "ms")
        report.add(f"{way}_p95_ms", p95_ms(times[way]), f"raybox {words}, 95 of 100", "ms")
        report.add(f"{way}_ratio", median_ms(times[way]) / median_ms(times["raw"]), f"raybox {words} against raw", "x")


def add(sandbox: Sandbox) -> None:
    assert sandbox.run_code("1+1").text == "2"


def in_turns(ways: Mapping[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each round of each way; in turns, so that all see the same machine."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for call in ways.values():
        for _ in range(WARM_UP):
            call()
    for _ in range(BLOCKS):
        for way, call in ways.items():
            for _ in range(ROUNDS // BLOCKS):
                began = time.perf_counter()
                call()
                times[way].append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main("execute", measure, "1+1 in a running sandbox")
