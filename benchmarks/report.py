"""How a benchmark is called, and how it says what it found."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Report:
    """Figures of one benchmark: flat names to numbers, with the words of the table beside them."""

    benchmark: str
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    base: str | None = None  #: interpreter of another raybox, to be measured in the same run

    def add(self, name: str, value: float, label: str, unit: str = "") -> None:
        self.figures[name] = round(value, 4)
        self.rows.append((label, f"{value:,.2f} {unit}".rstrip() if isinstance(value, float) else f"{value:,} {unit}"))


def machine() -> dict[str, object]:
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory_kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mib": memory_kib // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main(benchmark: str, measure: Callable[[Report], None], about: str) -> None:
    """Run one benchmark as a command: a table, or with --json one object as the last line."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{benchmark}", description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument(
        "--base", metavar="PYTHON", help="interpreter of another raybox, to be measured too where the benchmark can"
    )
    given = parser.parse_args()
    as_json = given.json
    report = Report(benchmark, base=given.base)
    measure(report)
    if as_json:
        print(json.dumps({"benchmark": benchmark, "machine": machine(), "figures": report.figures}))
        return
    width = max(len(label) for label, _ in report.rows)
    print(f"\n{benchmark}: {about}")
    for label, value in report.rows:
        print(f"  {label.ljust(width)}  {value.rjust(14)}")


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


def p95_ms(seconds: Sequence[float]) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * 0.95))] * 1e3
