"""Items of a batch: pieces of code that share a sandbox one after the other, and of which the next sees nothing.

Each is forked from the zygote, outside of the sandbox, into a view of the files of its own (guest/view.py). What it
started ends with it; only then does the next one begin. There is nothing to clean up, and so nothing to forget.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from raybox_actors.config import LanguageKernel
from raybox_actors.contexts import Context, KernelFactory, TimeoutPolicy
from raybox_actors.errors import BadRequest, InternalError
from raybox_actors.executions import Execution, OutputLimits
from raybox_actors.isolation.cgroup import cgroup_limits
from raybox_actors.isolation.policy import HOME
from raybox_actors.kernels.base import CodeError, KernelFailed
from raybox_actors.kernels.forked import ForkedKernel
from raybox_actors.kernels.languages import kernel_language, kernel_maker, normal_language, program_of
from raybox_actors.kernels.pipes import Pipes
from raybox_actors.kernels.place import Place
from raybox_actors.kernels.zygote_client import Child
from raybox_actors.values import ITEM_OUTPUT_BYTES, ContextInfo, ExecuteRequest, ItemOutcome, ItemRequest

#: Nobody looks at an item's output before its end, so it never waits for a reader.
LIMITS = OutputLimits(
    output_bytes=ITEM_OUTPUT_BYTES,
    unread_bytes=8 * ITEM_OUTPUT_BYTES,
    replay_bytes=8 * ITEM_OUTPUT_BYTES,
    batch_bytes=16 * ITEM_OUTPUT_BYTES,
)
#: Its kernel goes in any case: the interrupt is for the traceback alone.
TIMEOUTS = TimeoutPolicy(interrupt_grace_s=0.5)
#: What a program is asked to leave; guest/program.py sends no more, but who knows what runs in its place.
MAX_FETCHED_BYTES = 16 * 1024 * 1024
#: Rounds of waiting for what was killed to be gone; then the sandbox is given up.
GONE_ROUNDS, GONE_PAUSE_S = 200, 0.005


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sandbox lends to its items. The callables are the session's: see `Context`."""

    place: Place
    languages: Mapping[str, LanguageKernel]
    sandbox_ends: Callable[[float], Awaitable[bool]]
    oom_kills: Callable[[], int]


async def run_item(item: ItemRequest, around: Surroundings) -> ItemOutcome:
    """Run it, and end all that it left. One at a time in a sandbox, with nothing else in it.

    Raises BadRequest (language, names of files), InternalError (no process to be had). On cancellation, the sandbox is
    not fit for another item.
    """
    loop = asyncio.get_running_loop()
    private = replace(around.place, private=True)
    execution = Execution(
        ExecuteRequest(item.execution_id, item.code, env_vars=item.env_vars, timeout_s=item.timeout_s), LIMITS, loop
    )
    began_s = loop.time()
    run = _run_program if item.kind == "program" else _run_cell
    status, exit_code, files = await run(item, private, around, execution)
    duration_s = loop.time() - began_s
    clean = await _all_gone(private)
    return ItemOutcome(status, execution.batch(0).lines, duration_s, clean, exit_code, files)


Outcome = tuple[Any, int | None, dict[str, bytes]]


async def _run_cell(item: ItemRequest, place: Place, around: Surroundings, execution: Execution) -> Outcome:
    if item.files or item.stdin or item.fetch:
        raise BadRequest("files and stdin are for items of the kind program")
    language = normal_language(item.language)
    make: KernelFactory = partial(ForkedKernel, place, HOME)
    if language != "python":
        installed = {name: one for name, one in around.languages.items() if one.protocol == "frames"}
        if kernel_language(language) in around.languages.keys() - installed.keys():
            raise BadRequest(f"cells of {language} cannot be items; its programs can (kind program)")
        make = kernel_maker(language, installed, place, HOME)
    info = ContextInfo(item.execution_id, language, HOME)
    context = Context(info, make, TIMEOUTS, around.sandbox_ends, around.oom_kills, replaces_kernels=False)
    try:
        await context.start()
        await context.run(execution)
    except KernelFailed as error:
        raise InternalError(f"the item's kernel could not be started: {error}") from error
    finally:
        await context.remove()
    if execution.fault is not None:
        raise execution.fault
    failed = execution.failed
    if failed is None:
        return "ok", None, {}
    return (failed.kind or "error"), None, {}


async def _run_program(item: ItemRequest, place: Place, around: Surroundings, execution: Execution) -> Outcome:
    program = program_of(normal_language(item.language), around.languages)
    check_names((*item.files, *item.fetch))
    env = {name: value for name, value in place.env.items() if name != "MPLBACKEND"} | item.env_vars
    request = {"op": "program", "argv": program.argv, "main": program.main, "fetch": list(item.fetch), "env": env}
    if program.argv or needs_standard_library_only(item.code):
        place = replace(place, zygote=place.zygote.lean())
    kills = around.oom_kills()
    pipes = Pipes(execution.add)
    child: Child | None = None
    with _held(item) as (stdin, bundle):
        try:
            child = await place.enter(request, HOME, [stdin, *pipes.write_ends], bundle)
            pipes.close_write_ends()
            pipes.resume()
            status, overdue = await _ended(child, item.timeout_s)
            await _all_gone(place)
            pipes.drain()
        except KernelFailed as error:
            raise InternalError(f"the item's process could not be started: {error}") from error
        finally:
            pipes.close()
            if child is not None:
                _kill(child)
                child.close()
        files = fetched(bundle, item.fetch) if item.fetch and not overdue else {}
    if around.oom_kills() > kills and status != 0:
        value = "the sandbox ran out of memory and the program was killed"
        execution.finish(CodeError("OutOfMemory", value, (f"OutOfMemory: {value}",), kind="oom"))
        return "oom", None, files
    if overdue:
        value = f"the program did not end within {item.timeout_s:g} s and was killed"
        execution.finish(CodeError("ExecutionTimeout", value, (f"ExecutionTimeout: {value}",), kind="timeout"))
        return "timeout", None, files
    if status is None:  # nobody knows how it ended
        raise InternalError("the item's zygote went away")
    execution.finish()
    return ("ok" if status == 0 else "error"), status, files


_IMPORTS = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)|import[ \t]+([\w., \t]+))", re.MULTILINE)


def needs_standard_library_only(code: str) -> bool:
    """As far as its import statements tell; being wrong costs time alone. Pure."""
    for source, names in _IMPORTS.findall(code):
        for name in (source or names).split(","):
            if name.split(".")[0].split(" as ")[0].strip() not in sys.stdlib_module_names:
                return False
    return True


def check_names(names: tuple[str, ...]) -> None:
    """Of files beside a program. Raises BadRequest for one that leads out of the working folder, or nowhere."""
    for name in names:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or len(name) > 4096:
            raise BadRequest(f"{name[:80]!r} is no name of a file below the working folder")


@contextlib.contextmanager
def _held(item: ItemRequest) -> Any:
    """Descriptors of the program's stdin, and of what it consists of."""
    files = {name: base64.b64encode(data).decode() for name, data in item.files.items()}
    stdin, bundle = _memory(item.stdin), _memory(json.dumps({"code": item.code, "files": files}).encode())
    try:
        readable = os.open(f"/proc/self/fd/{stdin}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield readable, bundle
        finally:
            os.close(readable)
    finally:
        os.close(stdin)
        os.close(bundle)


def _memory(data: bytes) -> int:
    fd = os.memfd_create("item", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def _ended(child: Child, limit_s: float) -> tuple[int | None, bool]:
    """Its exit status, and whether it had to be killed for its time."""
    try:
        async with asyncio.timeout(limit_s):
            return await child.status(), False
    except TimeoutError:
        _kill(child)
        return await child.status(), True


def _kill(child: Child) -> None:
    if child.pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


async def _all_gone(place: Place) -> bool:
    """End whatever is left in the sandbox but its first process; whether that worked. False where there is no cgroup:
    then nobody can tell."""
    group = place.cgroup
    if group is None:
        return False
    if not group.kill():
        return True
    for _ in range(GONE_ROUNDS):
        if not group.processes():
            group.apply(cgroup_limits(place.policy.limits))  # killing may have closed the group to new processes
            return True
        group.kill()
        await asyncio.sleep(GONE_PAUSE_S)
    return False


def fetched(bundle: int, wanted: Collection[str]) -> dict[str, bytes]:
    """Of what the program left, the files that are wanted; it is not to be trusted in anything."""
    size = os.fstat(bundle).st_size
    if size > MAX_FETCHED_BYTES:
        return {}
    try:
        found = json.loads(os.pread(bundle, size, 0))
        return {name: base64.b64decode(text, validate=True) for name, text in found.items() if name in wanted}
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        return {}
