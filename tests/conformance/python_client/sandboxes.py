"""The life of sandboxes."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any

from e2b_code_interpreter import SandboxQuery, SandboxState

from .programs import Client, Differs, kinds, needs, program, same, that


@program
async def create(c: Client) -> None:
    sandbox = await c.done(c.Sandbox.create())
    c.made.append(sandbox)
    info = await c.done(sandbox.get_info())
    same(info.sandbox_id, sandbox.sandbox_id)
    that(299 < (info.end_at - info.started_at).total_seconds() < 301, "300 s is the default")


@program
async def create_options(c: Client) -> None:
    sandbox = await c.create(
        template="code-interpreter-v1", timeout=77, metadata={"a b/&": "é=1"}, envs={"MINE": "1"}, secure=True
    )
    info = await c.done(sandbox.get_info())
    same(info.metadata, {"a b/&": "é=1"})
    that(76 < (info.end_at - info.started_at).total_seconds() < 78, "it ends after its timeout")
    same((await c.done(sandbox.commands.run("echo $MINE"))).stdout, "1\n")
    same((await c.done(sandbox.run_code("import os; os.environ['MINE']"))).text, "1")


@program
async def create_base_template(c: Client) -> None:
    sandbox = await c.create(template="base")
    same((await c.done(sandbox.commands.run("echo up"))).stdout, "up\n")


@program
async def create_unknown_template(c: Client) -> None:
    error = await c.raised(lambda: c.create(template="no-such-template"))
    that("404" in str(error) or "NotFoundException" in kinds(error), f"404: {error}")


@program
async def create_insecure(c: Client) -> None:
    sandbox = await c.create(secure=False)
    await c.done(sandbox.files.write("a", "b"))
    same(await c.done(sandbox.files.read("a")), "b")


@program
async def create_with_idempotency_key(c: Client) -> None:
    needs(c.Sandbox, "create", "idempotency_key")
    key = secrets.token_hex(8)
    first = await c.create(idempotency_key=key)
    same((await c.create(idempotency_key=key)).sandbox_id, first.sandbox_id)


@program
async def create_without_internet(c: Client) -> None:
    sandbox = await c.create(allow_internet_access=False)
    same((await c.done(sandbox.get_info())).allow_internet_access, False)
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    that((await c.done(sandbox.run_code(reach))).error is not None, "nothing is reached")


@program
async def create_with_internet(c: Client) -> None:
    sandbox = await c.create(allow_internet_access=True)
    info = await c.done(sandbox.get_info())
    if info.allow_internet_access is False:
        raise Differs("accepted, and without a network unless the pool has one (`--network egress`)")


@program
async def create_allow_list(c: Client) -> None:
    await c.create(network={"allow_out": ["192.0.2.1"], "deny_out": ["0.0.0.0/0"]})


@program
async def create_deny_list(c: Client) -> None:
    sandbox = await c.create(network={"deny_out": ["192.0.2.0/24"]})
    info = await c.done(sandbox.get_info())
    same(list(info.network["deny_out"]), ["192.0.2.0/24"])


@program
async def update_network(c: Client) -> None:
    needs(c.Sandbox, "update_network")
    sandbox = await c.create()
    await c.done(sandbox.update_network({"deny_out": ["192.0.2.0/24"]}))
    same(list((await c.done(sandbox.get_info())).network["deny_out"]), ["192.0.2.0/24"])
    await c.done(sandbox.update_network({}))
    network = (await c.done(sandbox.get_info())).network
    that(not network or not network.get("deny_out"), "what is not named is cleared")


@program
async def connect(c: Client) -> None:
    sandbox = await c.create(timeout=60)
    await c.done(sandbox.run_code("kept = 7"))
    end = (await c.done(sandbox.get_info())).end_at
    again = await c.done(c.Sandbox.connect(sandbox.sandbox_id, timeout=10))
    same((await c.done(again.run_code("kept"))).text, "7")
    same((await c.done(again.get_info())).end_at, end)
    await c.done(sandbox.connect(timeout=100))
    that((await c.done(sandbox.get_info())).end_at > end, "connecting makes the time longer")


@program
async def connect_to_unknown(c: Client) -> None:
    error = await c.raised(lambda: c.Sandbox.connect("inosuchsandbox00000000"))
    that("NotFoundException" in kinds(error), f"not found: {error!r}")


async def listed(c: Client, **options: Any) -> list[list[str]]:
    pages = c.Sandbox.list(**options)
    found = []
    while pages.has_next:
        found.append([one.sandbox_id for one in await c.done(pages.next_items())])
    return found


@program
async def list_pages(c: Client) -> None:
    mark = secrets.token_hex(4)
    made = [(await c.create(metadata={"mark": mark})).sandbox_id for _ in range(3)]
    query = SandboxQuery(metadata={"mark": mark})
    same(await listed(c, query=query, limit=2), [[made[2], made[1]], [made[0]]])


@program
async def list_by_metadata_and_state(c: Client) -> None:
    sandbox = await c.create(metadata={"k &=/é": "v %20"})
    query = SandboxQuery(metadata={"k &=/é": "v %20"}, state=[SandboxState.RUNNING])
    same(await listed(c, query=query), [[sandbox.sandbox_id]])
    same(await listed(c, query=SandboxQuery(metadata={"k &=/é": "other"})), [[]])
    paused = SandboxQuery(metadata={"k &=/é": "v %20"}, state=[SandboxState.PAUSED])
    same(await listed(c, query=paused), [[]])


@program
async def list_by_start_and_template(c: Client) -> None:
    needs(SandboxQuery, "__init__", "started_after", "template")
    needs(c.Sandbox, "list", "order")
    mark = {"mark": secrets.token_hex(4)}
    made = [(await c.create(metadata=mark)).sandbox_id for _ in range(2)]
    info = await c.done(c.Sandbox.get_info(made[1]))
    query = SandboxQuery(metadata=mark, template=info.template_id)
    same(await listed(c, query=query, order="asc"), [made])
    same(await listed(c, query=SandboxQuery(metadata=mark, template="no-such-template")), [[]])
    later = datetime.now(timezone.utc) + timedelta(hours=1)  # noqa: UP017
    same(await listed(c, query=SandboxQuery(metadata=mark, started_after=later)), [[]])


@program
async def get_info(c: Client) -> None:
    sandbox = await c.create(metadata={"who": "me"})
    for info in (await c.done(sandbox.get_info()), await c.done(c.Sandbox.get_info(sandbox.sandbox_id))):
        same((info.sandbox_id, info.metadata, info.state), (sandbox.sandbox_id, {"who": "me"}, SandboxState.RUNNING))
        that(info.cpu_count >= 1 and info.memory_mb > 0, "it says how large it is")
        that(info.end_at > info.started_at and info.envd_version, "it says when it ends")


@program
async def set_timeout(c: Client) -> None:
    sandbox = await c.create(timeout=100)
    end = (await c.done(sandbox.get_info())).end_at
    await c.done(sandbox.set_timeout(50))
    that((await c.done(sandbox.get_info())).end_at < end, "shorter")
    await c.done(c.Sandbox.set_timeout(sandbox.sandbox_id, 200))
    that((await c.done(sandbox.get_info())).end_at > end, "longer")


@program
async def end_by_timeout(c: Client) -> None:
    sandbox = await c.create(timeout=60)
    await c.done(sandbox.set_timeout(0))
    deadline = time.monotonic() + 20
    while await c.done(sandbox.is_running()):
        that(time.monotonic() < deadline, "it ends")
        await asyncio.sleep(0.05)
    error = await c.raised(sandbox.get_info)
    that("NotFoundException" in kinds(error), f"not found: {error!r}")


@program
async def is_running(c: Client) -> None:
    sandbox = await c.create()
    same(await c.done(sandbox.is_running()), True)
    await c.done(sandbox.kill())
    same(await c.done(sandbox.is_running()), False)


@program
async def kill(c: Client) -> None:
    sandbox = await c.create()
    same(await c.done(sandbox.kill()), True)
    same(await c.done(sandbox.kill()), False)
    same(await c.done(c.Sandbox.kill(sandbox.sandbox_id)), False)
    error = await c.raised(lambda: sandbox.run_code("1"))
    that("TimeoutException" in kinds(error), f"cells: {error!r}")
    error = await c.raised(lambda: sandbox.commands.run("true"))
    that(kinds(error) & {"TimeoutException", "NotFoundException"}, f"commands: {error!r}")
    error = await c.raised(lambda: sandbox.files.read("a"))
    that(kinds(error) & {"TimeoutException", "NotFoundException"}, f"files: {error!r}")


@program
async def kill_while_a_cell_runs(c: Client) -> None:
    sandbox = await c.create()
    up = threading.Event()
    loop = asyncio.get_running_loop()

    def kill_when_up() -> None:
        if up.wait(30):
            if c.asynchronous:
                asyncio.run_coroutine_threadsafe(sandbox.kill(), loop).result(30)
            else:
                sandbox.kill()

    killer = threading.Thread(target=kill_when_up)
    killer.start()
    try:
        code = "import time; print('up', flush=True); time.sleep(60)"
        error = await c.raised(lambda: sandbox.run_code(code, on_stdout=lambda _: up.set()))
    finally:
        up.set()
        await asyncio.to_thread(killer.join)
    if "TimeoutException" not in kinds(error):
        raise Differs(f"the error is {type(error).__name__}: this client does not ask why its stream was cut")


@program
async def context_manager(c: Client) -> None:
    sandbox = await c.create()
    if c.asynchronous:
        async with sandbox:
            pass
    else:
        with sandbox:
            pass
    same(await c.done(sandbox.is_running()), False)


@program
async def get_metrics(c: Client) -> None:
    sandbox = await c.sandbox()
    deadline = time.monotonic() + 20
    while not (metrics := await c.done(sandbox.get_metrics())):
        that(time.monotonic() < deadline, "there is a sample")
        await asyncio.sleep(0.2)
    last = metrics[-1]
    that(last.cpu_count >= 1 and last.cpu_used_pct >= 0, "CPU")
    that(0 < last.mem_used <= last.mem_total and 0 <= last.disk_used <= last.disk_total, "memory and disk")
    if hasattr(last, "mem_cache"):
        that(last.mem_cache >= 0, "cache")


@program
async def wrong_key(c: Client) -> None:
    error = await c.raised(lambda: c.Sandbox.create(api_key="e2b_" + "0" * 40))
    that("AuthenticationException" in kinds(error), f"401: {error!r}")
