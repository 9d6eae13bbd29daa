"""Every language: its first cell in a sandbox, cold and warm, a later one, and the memory of its kernel.

The peer is the bare interpreter on the host, from nothing to the same word printed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.pool import memory_mib
from benchmarks.report import Report, main, median_ms, progress
from raybox_actors.config import LanguageKernel
from raybox_actors.isolation.policy import WallsPolicy
from raybox_actors.isolation.walls import write_skeleton
from raybox_actors.session import Session, SessionOptions, open_session
from raybox_actors.values import ExecuteRequest
from raybox_actors.zygote_process import spawn_zygote
from raybox_template.build import ensure
from raybox_template.languages import find_runtimes

ROUNDS = 5
LATER_CELLS = 20
#: Language -> a cell that prints "up", and the same for the bare interpreter.
CELLS = {
    "python": ("print('up')", ["{python}", "-c", "print('up')"]),
    "javascript": ("console.log('up')", ["node", "-e", "console.log('up')"]),
    "r": ("cat('up\\n')", ["R", "--no-echo", "-e", "cat('up\\n')"]),
    "bash": ("echo up", ["bash", "--norc", "-c", "echo up"]),
    "java": ('System.out.println("up");', ["jshell", "-s", "-"]),
}


@asynccontextmanager
async def sessions(folder: Path) -> AsyncIterator[SessionOptions]:
    """Options of sandboxes without a pool around them: what is measured here is the kernels."""
    template, runtimes = ensure("default"), find_runtimes()
    folders = [*template.prefixes, *(one for runtime in runtimes.values() for one in runtime.folders)]
    policy = WallsPolicy(read_only=tuple(map(str, folders)), mark=f"bench{os.getpid()}:0:0")
    write_skeleton(folder / "etc", policy)
    zygote = spawn_zygote(str(template.python), str(folder / "z.sock"), folder / "zygote.log")
    kernels = {name: LanguageKernel(one.command, one.protocol) for name, one in runtimes.items()}
    try:
        zygote.wait_until_ready()
        yield SessionOptions(1, zygote.address, str(template.python), folder / "etc", policy, languages=kernels)
    finally:
        zygote.stop()


async def run(session: Session, language: str, number: int) -> float:
    """Seconds until a cell has printed and ended."""
    code, _ = CELLS[language]
    began = time.perf_counter()
    batch = await session.execute(ExecuteRequest(f"{language}{number}", code, language=language))
    lines = batch.lines
    while not batch.done:
        batch = await session.poll(f"{language}{number}", batch.first_seq + batch.count, 60)
        lines += batch.lines
    assert b'"text":"up' in lines, lines
    return time.perf_counter() - began


def kernel_mib(session: Session, before: set[int]) -> float:
    """Private memory of the processes that came since."""
    return sum(memory_mib(pid)[0] for pid in processes_in(session) - before)


def processes_in(session: Session) -> set[int]:
    namespace = Path(f"/proc/{session._walls.first_pid}/ns/pid").stat().st_ino
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "ns/pid").stat().st_ino == namespace:
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def bare_s(language: str, python: str) -> float:
    _, command = CELLS[language]
    words = [python if word == "{python}" else word for word in command]
    began = time.perf_counter()
    done = subprocess.run(words, input=CELLS[language][0], capture_output=True, text=True, check=True)
    assert "up" in done.stdout
    return time.perf_counter() - began


async def measure_language(options: SessionOptions, language: str, report: Report) -> None:
    cold, warm, later, memory = [], [], [], []
    for _ in range(ROUNDS):
        session = await open_session(options, lambda: None)
        try:
            before = set() if language == "python" else processes_in(session)
            if language == "python":
                cold.append(await created_and_run(options))
            else:
                cold.append(await run(session, language, 0))
            later += [await run(session, language, number) for number in range(1, LATER_CELLS)]
            memory.append(kernel_mib(session, before | {session._walls.first_pid}))
        finally:
            await session.close()
        session = await open_session(options, lambda: None)
        try:
            if language != "python":
                session.warm([language])
                await session._warm(language)
            else:
                await session.exercise()
            warm.append(await run(session, language, 0))
        finally:
            await session.close()
    bare = [bare_s(language, options.python) for _ in range(ROUNDS)]
    report.add(f"{language}_cold_ms", median_ms(cold), f"{language}: first cell, cold kernel", "ms")
    report.add(f"{language}_warm_ms", median_ms(warm), f"{language}: first cell, warm kernel", "ms")
    report.add(f"{language}_later_ms", median_ms(later), f"{language}: later cells", "ms")
    report.add(f"{language}_private_mib", statistics.median(memory), f"{language}: kernel, private", "MiB")
    report.add(f"{language}_bare_ms", median_ms(bare), f"{language}: bare interpreter on the host", "ms")


async def created_and_run(options: SessionOptions) -> float:
    """Of Python a kernel comes with the walls: fresh walls are a part of its cold start."""
    began = time.perf_counter()
    session = await open_session(dataclasses.replace(options, slot=2), lambda: None)
    try:
        await run(session, "python", 0)
        return time.perf_counter() - began
    finally:
        await session.close()


async def measure_all(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="rbb-") as folder:
        async with sessions(Path(folder)) as options:
            for language in ("python", *options.languages):
                progress(language)
                await measure_language(options, language, report)


def measure(report: Report) -> None:
    asyncio.run(measure_all(report))


if __name__ == "__main__":
    main("languages", measure, "first cells and memory per language")
