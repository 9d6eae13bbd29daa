"""Cells of code. Those of cells.json are the same for all clients."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from .programs import PROGRAMS, Client, Differs, Program, kinds, program, same, that

TABLE: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "cells.json").read_text())


def cell(wanted: dict[str, Any]) -> Program:
    async def run(c: Client) -> None:
        sandbox = await c.sandbox()
        execution = await c.done(sandbox.run_code(wanted["code"], language=wanted.get("language")))
        that(execution.error is None, f"no error: {execution.error}")
        if "stdout" in wanted:
            same("".join(execution.logs.stdout), wanted["stdout"])
        if "text" in wanted:
            same(execution.text, wanted["text"])
        if "format" in wanted:
            result = execution.results[0]
            that(wanted["format"] in result.formats(), f"{wanted['format']} among {sorted(result.formats())}")
            value = result[wanted["format"]]
            if "equals" in wanted:
                same(value, wanted["equals"])
            if "starts" in wanted:
                that(value.startswith(wanted["starts"]), f"it starts with {wanted['starts']}")
        if "extra" in wanted:
            same(execution.results[0].extra, wanted["extra"])
        if "chart" in wanted:
            shown = [result for result in execution.results if result.chart is not None]
            that(shown, "there is a chart")
            that(shown[0].png, "there is a picture beside it")
            chart = json.loads(json.dumps(shown[0].chart.to_dict()))
            same({key: chart.get(key) for key in wanted["chart"]}, wanted["chart"])

    return run


for name, wanted in TABLE.items():
    PROGRAMS[name] = cell(wanted)


@program
async def run_code_state(c: Client) -> None:
    sandbox = await c.create()
    first = await c.done(sandbox.run_code("x = 20"))
    second = await c.done(sandbox.run_code("x * 2.1"))
    same((first.execution_count, second.execution_count, second.text), (1, 2, "42.0"))


@program
async def run_code_error(c: Client) -> None:
    execution = await c.done((await c.sandbox()).run_code("{}['key']"))
    same((execution.error.name, execution.error.value), ("KeyError", "'key'"))
    that("KeyError" in execution.error.traceback and "\x1b" not in execution.error.traceback, "a plain traceback")


@program
async def run_code_callbacks(c: Client) -> None:
    seen: list[tuple[str, object]] = []
    code = "import sys\nprint(1)\nprint(2, file=sys.stderr)\ndisplay(3)\n1 / 0"
    execution = await c.done(
        (await c.sandbox()).run_code(
            code,
            on_stdout=lambda message: seen.append(("stdout", message.line)),
            on_stderr=lambda message: seen.append(("stderr", message.line)),
            on_result=lambda result: seen.append(("result", result.text)),
            on_error=lambda error: seen.append(("error", error.name)),
        )
    )
    said = {kind: "".join(str(text) for name, text in seen if name == kind) for kind in ("stdout", "stderr")}
    same(said, {"stdout": "1\n", "stderr": "2\n"})
    same(seen[-2:], [("result", "3"), ("error", "ZeroDivisionError")])
    same(("".join(execution.logs.stdout), "".join(execution.logs.stderr)), ("1\n", "2\n"))


@program
async def run_code_streams(c: Client) -> None:
    """What is printed arrives before the cell ends: the cell waits for an answer to it."""
    sandbox = await c.sandbox()
    code = (
        "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)\nprint('end')"
    )
    if c.asynchronous:

        async def answer(_: Any) -> None:
            await sandbox.files.write("/tmp/go", "")

        execution = await sandbox.run_code(code, on_stdout=answer, timeout=20)
    else:
        execution = sandbox.run_code(code, on_stdout=lambda _: sandbox.files.write("/tmp/go", ""), timeout=20)
    await c.done(sandbox.files.remove("/tmp/go"))
    same("".join(execution.logs.stdout), "up\nend\n")


@program
async def run_code_envs(c: Client) -> None:
    sandbox = await c.create(envs={"A": "global"})
    code = "import os; os.environ.get('A'), os.environ.get('B')"
    same((await c.done(sandbox.run_code(code, envs={"A": "own", "B": "é"}))).text, "('own', 'é')")
    same((await c.done(sandbox.run_code(code))).text, "('global', None)")


@program
async def run_code_timeout(c: Client) -> None:
    sandbox = await c.sandbox()
    await c.done(sandbox.run_code("kept = 1"))
    error = await c.raised(lambda: sandbox.run_code("while True: pass", timeout=0.5))
    that("TimeoutException" in kinds(error), f"a timeout: {error!r}")
    same((await c.done(sandbox.run_code("kept", timeout=20))).text, "1")


@program
async def run_code_disconnect(c: Client) -> None:
    """A client that goes away interrupts its cell: here by cancelling, or by an error of its callback."""
    sandbox = await c.sandbox()
    code = "import time\nprint('up', flush=True)\ntime.sleep(60)"
    if c.asynchronous:
        up = asyncio.Event()
        task = asyncio.ensure_future(sandbox.run_code(code, on_stdout=lambda _: up.set()))
        await asyncio.wait_for(up.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    else:

        def leave(_: Any) -> None:
            raise KeyError("leave")

        that(isinstance(await c.raised(lambda: sandbox.run_code(code, on_stdout=leave)), KeyError), "own error")
    same((await c.done(sandbox.run_code("1 + 1", timeout=20))).text, "2")


@program
async def run_code_unknown_language(c: Client) -> None:
    sandbox = await c.sandbox()
    error = await c.raised(lambda: sandbox.run_code("1", language="cobol"))
    that("SandboxException" in kinds(error), f"refused: {error!r}")
    if "500" not in str(error):
        raise Differs("the status is 400 instead of 500")


@program
async def context_create_and_run(c: Client) -> None:
    sandbox = await c.sandbox()
    context = await c.done(sandbox.create_code_context(cwd="/tmp", language="python"))
    same((context.language, context.cwd), ("python", "/tmp"))
    await c.done(sandbox.run_code("mine = 1", context=context))
    same((await c.done(sandbox.run_code("import os; os.getcwd()", context=context))).text, "/tmp")
    same((await c.done(sandbox.run_code("'mine' in globals()"))).text, "False")
    await c.done(sandbox.remove_code_context(context))


@program
async def context_list(c: Client) -> None:
    sandbox = await c.create()
    same([one.language for one in await c.done(sandbox.list_code_contexts())], ["python", "javascript"])
    context = await c.done(sandbox.create_code_context())
    same((await c.done(sandbox.list_code_contexts()))[-1].id, context.id)


@program
async def context_restart(c: Client) -> None:
    sandbox = await c.sandbox()
    context = await c.done(sandbox.create_code_context())
    await c.done(sandbox.run_code("mine = 1", context=context))
    await c.done(sandbox.restart_code_context(context))
    same((await c.done(sandbox.run_code("mine", context=context))).error.name, "NameError")
    await c.done(sandbox.remove_code_context(context.id))


@program
async def context_remove(c: Client) -> None:
    sandbox = await c.sandbox()
    context = await c.done(sandbox.create_code_context())
    await c.done(sandbox.remove_code_context(context))
    error = await c.raised(lambda: sandbox.run_code("1", context=context))
    that("NotFoundException" in kinds(error), f"not found: {error!r}")


@program
async def context_and_language(c: Client) -> None:
    sandbox = await c.sandbox()
    context = await c.done(sandbox.create_code_context())
    error = await c.raised(lambda: sandbox.run_code("1", context=context, language="python"))
    that("Exception" in kinds(error), "refused")
    await c.done(sandbox.remove_code_context(context))
