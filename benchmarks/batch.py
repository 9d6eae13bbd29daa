"""1,000 test cases by `exec_many`, against one HTTP call for each case, and against a `subprocess` for each case.

Every way gives each case an interpreter of its own, its stdin and its output. One HTTP call for each: the cell in a
sandbox that is there already, and its context restarted after it, or the next case would see what it left (its files
stay all the same). As many at once in every way as the machine has cores, but for `exec_many`, which decides itself.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import raybox
from benchmarks.pool import pool
from benchmarks.report import Report, main, progress
from raybox import ExecItem, Sandbox
from raybox_template.build import ensure

CASES = 1000
#: Of the peers, which take their time; their rates are steady.
HTTP_CASES, SUBPROCESS_CASES = 150, 300
PROGRAM = "numbers = list(map(int, input().split()))\nprint(sum(numbers))\n"
#: The same as a cell, which has no stdin.
CELL = "import io, sys\nsys.stdin = io.StringIO({stdin!r})\ninput = sys.stdin.readline\n" + PROGRAM
SANDBOXES = 8


def stdin_of(number: int) -> str:
    return f"{number} {number + 1}\n"


def answer_of(number: int) -> str:
    return f"{2 * number + 1}\n"


def exec_many_rate(cases: int, kind: Literal["program", "cell"] = "program") -> float:
    """Cases per second, in the pool that the SDK speaks to."""

    def items() -> Iterator[ExecItem]:
        for number in range(cases):
            if kind == "program":
                yield ExecItem(PROGRAM, stdin=stdin_of(number))
            else:
                yield ExecItem(CELL.format(stdin=stdin_of(number)))

    began_s = time.perf_counter()
    count = 0
    for result in raybox.connect().exec_many(items(), kind=kind):
        assert result.stdout == answer_of(result.index), result
        count += 1
    assert count == cases
    return cases / (time.perf_counter() - began_s)


def http_rate(cases: int) -> float:
    at_once = os.cpu_count() or 1
    idle: SimpleQueue[Sandbox] = SimpleQueue()
    made = [Sandbox.create() for _ in range(at_once)]
    for sandbox in made:
        idle.put(sandbox)

    def run(number: int) -> None:
        sandbox = idle.get()
        execution = sandbox.run_code(CELL.format(stdin=stdin_of(number)))
        assert "".join(execution.logs.stdout) == answer_of(number)
        sandbox.restart_code_context(contexts[sandbox.sandbox_id])
        idle.put(sandbox)

    try:
        contexts = {sandbox.sandbox_id: sandbox.list_code_contexts()[0].id for sandbox in made}
        return _rate(run, cases, at_once)
    finally:
        for sandbox in made:
            sandbox.kill()


def subprocess_rate(cases: int) -> float:
    python = str(ensure("default").python)
    with tempfile.TemporaryDirectory() as folder:
        names = (Path(folder, f"{number}.py") for number in itertools.count())

        def run(number: int) -> None:
            file = next(names)
            file.write_text(PROGRAM)
            done = subprocess.run([python, file], input=stdin_of(number), capture_output=True, text=True, check=True)
            assert done.stdout == answer_of(number)

        return _rate(run, cases, os.cpu_count() or 1)


def _rate(run: Callable[[int], None], cases: int, at_once: int) -> float:
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(run, range(at_once)))  # what only the first ones cost
        began_s = time.perf_counter()
        list(threads.map(run, range(cases)))
        return cases / (time.perf_counter() - began_s)


def add_figures(report: Report) -> None:
    """In the pool that the SDK speaks to, which has room for at least as many sandboxes as there are cores."""
    progress(f"{SUBPROCESS_CASES} cases by subprocess")
    by_subprocess = subprocess_rate(SUBPROCESS_CASES)
    progress(f"{HTTP_CASES} cases by HTTP calls")
    by_http = http_rate(HTTP_CASES)
    progress(f"{CASES} cases by exec_many")
    by_exec_many = exec_many_rate(CASES)
    cells = exec_many_rate(CASES // 4, "cell")
    report.add("exec_many_per_s", by_exec_many, "exec_many, programs", "/s")
    report.add("exec_many_cells_per_s", cells, "exec_many, cells", "/s")
    report.add("http_per_s", by_http, "one HTTP call for each, context restarted", "/s")
    report.add("subprocess_per_s", by_subprocess, "a subprocess for each", "/s")
    report.add("exec_many_speedup_http", by_exec_many / by_http, "exec_many against HTTP calls", "x")
    report.add("exec_many_speedup_subprocess", by_exec_many / by_subprocess, "exec_many against subprocess", "x")


def measure(report: Report) -> None:
    progress("a pool")
    with pool(sandboxes=SANDBOXES, warm=2):
        add_figures(report)


if __name__ == "__main__":
    main("batch", measure, f"{CASES:,} test cases, each in an interpreter of its own")
