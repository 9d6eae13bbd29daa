"""`true` to its exit code, by the agent and over HTTP, against `subprocess` inside the same walls; the first call."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from benchmarks.pool import pool
from benchmarks.report import Report, main, median_ms, p95_ms, progress
from benchmarks.session import command, options
from benchmarks.session import sandbox as session_of
from raybox import Sandbox

ROUNDS = 100
FIRSTS = 10
#: As the SDK runs a command: a login shell.
SHELL = ("/bin/bash", "-l", "-c", "true")

PLAIN = f"""
import subprocess, time
for argv in (['/bin/true'], {list(SHELL)!r}):
    took = []
    for _ in range({ROUNDS}):
        began = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=True)
        took.append(time.perf_counter() - began)
    print(sorted(took)[{ROUNDS // 2}])
"""


async def by_agent(report: Report) -> None:
    async with options() as given:
        firsts = []
        for slot in range(FIRSTS):
            async with session_of(dataclasses.replace(given, slot=slot)) as session:
                began = time.perf_counter()
                await session.agent().stat("", "user")
                first_s = time.perf_counter() - began
                began = time.perf_counter()
                await session.agent().stat("", "user")
                firsts.append(first_s - (time.perf_counter() - began))
        report.add("first_call_ms", median_ms(firsts), "what the first call of the agent adds", "ms")
        report.add("first_call_max_ms", max(firsts) * 1e3, f"the same, worst of {FIRSTS}", "ms")
        async with session_of(given) as session:
            plain_true, plain_shell = map(float, (await command(session, "python", "-c", PLAIN)).split())
            await command(session, "/bin/sleep", "0.1")  # the launcher comes up
            took: dict[tuple[str, ...], list[float]] = {("/bin/true",): [], SHELL: []}
            for argv, seconds in took.items():
                for _ in range(ROUNDS):
                    began = time.perf_counter()
                    await command(session, *argv)
                    seconds.append(time.perf_counter() - began)
    report.add("plain_true_ms", plain_true * 1e3, "subprocess inside, true", "ms")
    report.add("agent_true_ms", median_ms(took[("/bin/true",)]), "agent, true", "ms")
    report.add("plain_shell_ms", plain_shell * 1e3, "subprocess inside, true in a login shell", "ms")
    report.add("agent_shell_ms", median_ms(took[SHELL]), "agent, true in a login shell", "ms")


def by_http(report: Report) -> None:
    with pool(sandboxes=1, warm=1), Sandbox.create() as sandbox:
        began = time.perf_counter()
        sandbox.commands.run("true")
        report.add("http_first_ms", (time.perf_counter() - began) * 1e3, "SDK over HTTP, first command", "ms")
        took = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            assert sandbox.commands.run("true").exit_code == 0
            took.append(time.perf_counter() - began)
    report.add("http_ms", median_ms(took), "SDK over HTTP, true in a login shell", "ms")
    report.add("http_p95_ms", p95_ms(took), "the same, 95 of 100", "ms")


def measure(report: Report) -> None:
    progress("sandboxes without a pool")
    asyncio.run(by_agent(report))
    progress("a pool")
    by_http(report)
    figures = report.figures
    report.add("agent_ratio", figures["agent_shell_ms"] / figures["plain_shell_ms"], "agent against subprocess", "x")
    report.add("http_ratio", figures["http_ms"] / figures["plain_shell_ms"], "SDK over HTTP against subprocess", "x")


if __name__ == "__main__":
    main("commands", measure, "commands of a sandbox")
