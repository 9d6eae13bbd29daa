"""What data beside the picture costs: per figure, per data frame, and for a cell that has neither.

Stock ipykernel of the default template, twice: with its start-up files, and without the extractor. Cells go to both in
turns, so that both see the same machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.peers import run, stock_kernel
from benchmarks.report import Report, main, median_ms, progress

IDLE_ROUNDS = 400
ROUNDS = 60
BLOCKS = 8

WITHOUT = """
_f = get_ipython().display_formatter.formatters
for _mime in [m for m in _f if m.startswith(("e2b/", "application/vnd."))]:
    del _f[_mime]
for _kind in (list, dict):
    _f["application/json"].type_printers.pop(_kind, None)
import sys
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("raybox")]
for _callback in list(get_ipython().events.callbacks["pre_run_cell"]):
    if type(getattr(_callback, "__self__", None)).__module__.startswith("raybox"):
        get_ipython().events.unregister("pre_run_cell", _callback)
del _f, _mime, _kind, _callback, sys
"""
SETUP = """
import matplotlib.pyplot as plt, numpy as np, pandas as pd
figure, axes = plt.subplots()
x = np.linspace(0, 10, 1000)
for shift in range(4):
    axes.plot(x, np.sin(x + shift), label=f"line {shift}")
axes.set(title="t", xlabel="Time (s)"); axes.legend(); plt.close()
frame = pd.DataFrame({"a": range(1000), "b": np.linspace(0, 1, 1000), "c": ["text"] * 1000})
"""
#: Inside the kernel, what `extract_figure` and `extract_frame` alone take: median of several, as text.
ALONE = """
import time, statistics
from raybox_extractor import extract_figure, extract_frame
def _median(function, value):
    taken = []
    for _ in range(30):
        began = time.perf_counter(); assert function(value); taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e3
print(_median(extract_figure, figure), _median(extract_frame, frame))
"""


@contextlib.contextmanager
def kernels() -> Iterator[tuple[Any, Any]]:
    """A kernel with the extractor, and one without."""
    with stock_kernel() as extracting, stock_kernel() as plain:
        run(plain, WITHOUT)
        yield extracting, plain


def in_turns(extracting: Any, plain: Any, code: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round in either kernel."""
    taken: tuple[list[float], list[float]] = [], []
    for client in (extracting, plain) * 3:
        run(client, code)
    for _ in range(BLOCKS):
        for client, times in zip((extracting, plain), taken, strict=True):
            for _ in range(rounds // BLOCKS):
                began = time.perf_counter()
                run(client, code)
                times.append(time.perf_counter() - began)
    return taken


def printed(client: Any, code: str) -> str:
    """What a cell writes to stdout."""
    text: list[str] = []

    def take(message: Any) -> None:
        if message["msg_type"] == "stream":
            text.append(message["content"]["text"])

    client.execute_interactive(code, timeout=60, output_hook=take)
    return "".join(text)


def measure(report: Report) -> None:
    progress("two stock kernels")
    with kernels() as (extracting, plain):
        progress("a cell without libraries")
        with_it, without = in_turns(extracting, plain, "1+1", IDLE_ROUNDS)
        report.add("idle_ms", median_ms(with_it), "1+1, with the extractor", "ms")
        report.add("idle_plain_ms", median_ms(without), "1+1, without", "ms")
        report.add("idle_ratio", median_ms(with_it) / median_ms(without), "1+1, with against without", "x")
        for client in (extracting, plain):
            run(client, SETUP)
        progress("figures and frames")
        for name, label in (("figure", "figure of four lines, 4,000 points"), ("frame", "data frame of 1,000 x 3")):
            with_it, without = in_turns(extracting, plain, name, ROUNDS)
            report.add(f"{name}_shown_ms", median_ms(with_it), f"{label}: shown", "ms")
            report.add(f"{name}_shown_ratio", median_ms(with_it) / median_ms(without), f"{label}: against plain", "x")
        figure_ms, frame_ms = map(float, printed(extracting, ALONE).split())
        report.add("figure_ms", figure_ms, "the figure's chart alone", "ms")
        report.add("frame_ms", frame_ms, "the frame's data alone", "ms")


if __name__ == "__main__":
    main("extract", measure, "figures and data frames as data, and cells without them")
