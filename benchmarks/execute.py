"""`1+1` in a running sandbox, through the SDK over HTTP and over Ray, against a raw round trip to stock ipykernel."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.peers import run, stock_kernel
from benchmarks.pool import pool
from benchmarks.report import Report, main, median_ms, p95_ms, progress
from raybox import Sandbox

ROUNDS = 300
BLOCKS = 3
WARM_UP = 20


def measure(report: Report) -> None:
    progress("a pool and a stock kernel")
    with (
        pool(sandboxes=2, warm=2) as running,
        stock_kernel() as client,
        running.joined(),
        Sandbox.create() as over_http,
        Sandbox.create(transport="ray") as over_ray,
    ):
        raw, http, ray = in_turns(lambda: run(client, "1+1"), lambda: one(over_http), lambda: one(over_ray))
    report.add("raw_ms", median_ms(raw), "stock ipykernel, raw round trip", "ms")
    report.add("http_ms", median_ms(http), "raybox over HTTP", "ms")
    report.add("http_p95_ms", p95_ms(http), "raybox over HTTP, 95 of 100", "ms")
    report.add("http_ratio", median_ms(http) / median_ms(raw), "raybox over HTTP against raw", "x")
    add_ray(report, ray, raw)


def measure_ray(report: Report) -> None:
    """The part of it that is over Ray alone."""
    progress("a pool that is spoken to over Ray, and a stock kernel")
    with (
        pool(sandboxes=1, warm=1) as running,
        stock_kernel() as client,
        running.joined(),
        Sandbox.create(transport="ray") as over_ray,
    ):
        raw, ray = in_turns(lambda: run(client, "1+1"), lambda: one(over_ray))
    add_ray(report, ray, raw)


def add_ray(report: Report, ray: list[float], raw: list[float]) -> None:
    report.add("ray_ms", median_ms(ray), "raybox over Ray", "ms")
    report.add("ray_p95_ms", p95_ms(ray), "raybox over Ray, 95 of 100", "ms")
    report.add("ray_ratio", median_ms(ray) / median_ms(raw), "raybox over Ray against raw", "x")


def one(sandbox: Sandbox) -> None:
    assert sandbox.run_code("1+1").text == "2"


def in_turns(*ways: Callable[[], object]) -> list[list[float]]:
    """Seconds of each round of each, block by block, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in ways]
    for way in ways:
        for _ in range(WARM_UP):
            way()
    for _ in range(BLOCKS):
        for way, taken in zip(ways, times, strict=True):
            for _ in range(ROUNDS // BLOCKS):
                began = time.perf_counter()
                way()
                taken.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main("execute", measure, "1+1 in a running sandbox")
