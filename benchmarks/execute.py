"""`1+1` in a running sandbox, through the SDK over HTTP, against a raw round trip to stock ipykernel."""

from __future__ import annotations

import time

from benchmarks.peers import run, stock_kernel
from benchmarks.pool import pool
from benchmarks.report import Report, main, median_ms, p95_ms, progress
from raybox import Sandbox

ROUNDS = 300
BLOCKS = 3


def measure(report: Report) -> None:
    raw: list[float] = []
    http: list[float] = []
    progress("a pool and a stock kernel")
    with pool(sandboxes=1, warm=1), stock_kernel() as client, Sandbox.create() as sandbox:
        for _ in range(20):
            run(client, "1+1")
            sandbox.run_code("1+1")
        for _ in range(BLOCKS):  # in turns, so that both see the same machine
            for _ in range(ROUNDS // BLOCKS):
                began = time.perf_counter()
                run(client, "1+1")
                raw.append(time.perf_counter() - began)
            for _ in range(ROUNDS // BLOCKS):
                began = time.perf_counter()
                assert sandbox.run_code("1+1").text == "2"
                http.append(time.perf_counter() - began)
    report.add("raw_ms", median_ms(raw), "stock ipykernel, raw round trip", "ms")
    report.add("http_ms", median_ms(http), "raybox over HTTP", "ms")
    report.add("http_p95_ms", p95_ms(http), "raybox over HTTP, 95 of 100", "ms")
    report.add("http_ratio", median_ms(http) / median_ms(raw), "raybox over HTTP against raw", "x")


if __name__ == "__main__":
    main("execute", measure, "1+1 in a running sandbox")
