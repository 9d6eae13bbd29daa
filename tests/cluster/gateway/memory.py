"""A Backend that keeps sandboxes in memory and plays scripts instead of running code. Only for the gateway's tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from raybox_actors.errors import BadRequest, Cause, NotFound, RayboxError, SandboxLost
from raybox_actors.results import END_LINE, text_line
from raybox_actors.values import (
    ContextInfo,
    CreateRequest,
    EventBatch,
    ExecuteRequest,
    ItemOutcome,
    ItemRequest,
    ItemsDone,
    LeaseOwner,
    LogEntry,
    NodeStatus,
    PoolCapacity,
    PoolStatus,
    Quota,
    ResourceUsage,
    SandboxInfo,
)
from tests.cluster.gateway.local_agent import LocalAgent

#: How long `execute` waits for a first event, as the real one does.
FIRST_EVENTS_S = 0.005

Script = Callable[["Run"], Awaitable[None]]


class Run:
    """One scripted execution."""

    def __init__(self, request: ExecuteRequest) -> None:
        self.request = request
        self.lines: list[bytes] = []
        self.playing = False  #: an interrupt before that comes too early
        self.done = False
        self.failure: RayboxError | None = None
        self.interrupted = asyncio.Event()
        self.polled = asyncio.Event()
        self.changed = asyncio.Event()

    def emit(self, type_: str, **fields: object) -> None:
        self.emit_raw(json.dumps({"type": type_, **fields}).encode() + b"\n")

    def emit_raw(self, line: bytes) -> None:
        self.lines.append(line)
        self.changed.set()

    def fail(self, error: RayboxError) -> None:
        self.failure = error
        self.changed.set()

    async def play(self, script: Script) -> None:
        self.playing = True
        await script(self)
        self.emit("end_of_execution")
        self.done = True

    def batch(self, after: int) -> EventBatch:
        if self.failure is not None:
            raise self.failure
        lines = self.lines[after:]
        return EventBatch(self.request.execution_id, after, len(lines), b"".join(lines), self.done)

    async def wait(self, after: int, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while len(self.lines) <= after and not self.done and self.failure is None:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return


async def two(run: Run) -> None:
    run.emit("number_of_executions", execution_count=1)
    run.emit("result", text="2", is_main_result=True, extra={})


async def succeed(_sandbox_id: str, item: ItemRequest) -> ItemOutcome:
    """What an item does unless a test says otherwise: print its code."""
    lines = text_line("stdout", item.code) + END_LINE
    return ItemOutcome("ok", lines, 0.0, clean=True, exit_code=0 if item.kind == "program" else None)


class MemoryBackend:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0
        self.live: dict[str, SandboxInfo] = {}
        self.gone: dict[str, Cause] = {}
        self.contexts_of: dict[str, dict[str, ContextInfo]] = {}
        self.created: list[CreateRequest] = []
        self.executed: list[ExecuteRequest] = []
        self.runs: dict[str, Run] = {}
        self.scripts: dict[str, Script] = {}
        self.started: asyncio.Queue[Run] = asyncio.Queue()
        self.interrupts: asyncio.Queue[str] = asyncio.Queue()
        self.fail_with: Exception | None = None  #: raised by every call
        self.hold_execute: asyncio.Event | None = None  #: `execute` answers only when it is set
        self.hold_create: asyncio.Event | None = None  #: the same for `create`
        self.creating = asyncio.Event()
        self.killed: asyncio.Queue[str] = asyncio.Queue()
        self.gangs: list[tuple[CreateRequest, int, float]] = []
        self.gangs_given_up: asyncio.Queue[int] = asyncio.Queue()
        self.calls: list[str] = []
        self.leases: dict[tuple[str, str], str] = {}  #: sandbox by API key and key of the lease
        self.leased: list[tuple[CreateRequest, bool]] = []
        self.heartbeats: list[LeaseOwner] = []
        self.agents: dict[str, LocalAgent] = {}
        self.environments: dict[str, dict[str, str]] = {}
        self.run: Callable[[str, ItemRequest], Awaitable[ItemOutcome]] = succeed
        #: Items by the calls that brought them, and the last one of each sandbox.
        self.together: list[tuple[ItemRequest, ...]] = []
        self.items: dict[str, asyncio.Future[ItemOutcome]] = {}
        self.samples: list[ResourceUsage] = []
        self.entries: list[LogEntry] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ids = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fail_with is not None:
            raise self.fail_with

    def _sandbox(self, sandbox_id: str) -> SandboxInfo:
        if sandbox_id in self.gone:
            raise SandboxLost(sandbox_id, self.gone[sandbox_id])
        if sandbox_id not in self.live:
            raise NotFound("sandbox", sandbox_id)
        return self.live[sandbox_id]

    def end(self, sandbox_id: str, cause: Cause) -> None:
        del self.live[sandbox_id]
        self.gone[sandbox_id] = cause
        if sandbox_id in self.agents:
            self.agents[sandbox_id].end(SandboxLost(sandbox_id, cause))
        for run in self.runs.values():
            run.fail(SandboxLost(sandbox_id, cause))

    async def create(self, request: CreateRequest) -> SandboxInfo:
        self._called("create")
        self.created.append(request)
        self.creating.set()
        if self.hold_create is not None:
            await self.hold_create.wait()
        self.now_s += 1
        sandbox_id = f"s{next(self._ids):05d}x{secrets.token_hex(4)}"
        info = SandboxInfo(
            sandbox_id=sandbox_id,
            template=request.template,
            state="running",
            started_at_s=self.now_s,
            end_at_s=self.now_s + request.timeout_s,
            metadata=request.metadata,
            cpu_count=1,
            memory_mib=1024,
            disk_mib=2048,
            owner=request.owner,
            envd_access_token=f"envd-token-{sandbox_id}" if request.secure else None,
            traffic_access_token=None if request.allow_public_traffic else "traffic-token",
            allow_internet_access=request.allow_internet_access,
            network=request.network,
            node_id="node-1",
            timings_ms={"queued": 0.5, "ready": 2.5},
        )
        self.live[sandbox_id] = info
        self.environments[sandbox_id] = request.env_vars
        self.contexts_of[sandbox_id] = {
            name: ContextInfo(name, language, "/home/user")
            for name, language in (("py", "python"), ("js", "javascript"))
        }
        return info

    async def create_many(self, request: CreateRequest, count: int, deadline_s: float) -> list[SandboxInfo]:
        self._called("create_many")
        self.gangs.append((request, count, deadline_s))
        try:
            return [await self.create(request) for _ in range(count)]
        except asyncio.CancelledError:
            self.gangs_given_up.put_nowait(count)
            raise

    async def capacity(self, owner: str, quota: Quota | None) -> PoolCapacity:
        self._called("capacity")
        live = sum(info.owner == owner for info in self.live.values())
        limit = None if quota is None else quota.sandboxes
        return PoolCapacity(2, 1, live, limit, 0, 0.0, len(self.live), 8)

    async def connect(self, sandbox_id: str, timeout_s: float) -> tuple[SandboxInfo, bool]:
        self._called("connect")
        info = self._sandbox(sandbox_id)
        resumed = info.state == "paused"
        info = replace(info, end_at_s=max(info.end_at_s, self.now_s + timeout_s), state="running")
        self.live[sandbox_id] = info
        return info, resumed

    async def info(self, sandbox_id: str) -> SandboxInfo:
        self._called("info")
        return self._sandbox(sandbox_id)

    async def sandboxes(self) -> list[SandboxInfo]:
        self._called("sandboxes")
        return list(self.live.values())

    async def kill(self, sandbox_id: str) -> None:
        self._called("kill")
        self._sandbox(sandbox_id)
        self.end(sandbox_id, "killed")
        self.killed.put_nowait(sandbox_id)

    async def set_timeout(self, sandbox_id: str, timeout_s: float) -> None:
        self._called("set_timeout")
        info = self._sandbox(sandbox_id)
        if timeout_s == 0:
            self.end(sandbox_id, "timeout")
        else:
            self.live[sandbox_id] = replace(info, end_at_s=self.now_s + timeout_s)

    async def update_network(self, sandbox_id: str, network: dict[str, object], allow_internet_access: bool) -> None:
        self._called("update_network")
        info = self._sandbox(sandbox_id)
        self.live[sandbox_id] = replace(info, network=network, allow_internet_access=allow_internet_access)

    async def execute(self, sandbox_id: str, request: ExecuteRequest) -> EventBatch:
        self._called("execute")
        self._sandbox(sandbox_id)
        if request.context_id is not None and request.context_id not in self.contexts_of[sandbox_id]:
            raise NotFound("context", request.context_id)
        self.executed.append(request)
        run = self.runs.get(request.execution_id)
        if run is None:
            run = self.runs[request.execution_id] = Run(request)
            self.started.put_nowait(run)
            if self.hold_execute is not None:
                await self.hold_execute.wait()
            task = asyncio.create_task(run.play(self.scripts.get(request.code, two)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await run.wait(request.from_event, FIRST_EVENTS_S)
        return run.batch(request.from_event)

    async def poll(self, sandbox_id: str, execution_id: str, after_seq: int, wait_s: float) -> EventBatch:
        self._called("poll")
        self._sandbox(sandbox_id)
        if (run := self.runs.get(execution_id)) is None:
            raise NotFound("execution", execution_id)
        run.polled.set()
        await run.wait(after_seq, wait_s)
        return run.batch(after_seq)

    async def run_items(self, sandbox_id: str, items: tuple[ItemRequest, ...], within_s: float | None) -> ItemsDone:
        """As a session does it, but that an end with an error other than BadRequest is raised."""
        self._called("run_items")
        self._sandbox(sandbox_id)
        self.together.append(items)
        until_s = None if within_s is None else time.monotonic() + within_s
        ends: list[ItemOutcome | Exception] = []
        for item in items:
            work = self.items[sandbox_id] = asyncio.ensure_future(self.run(sandbox_id, item))
            try:
                await asyncio.wait({work}, timeout=None if until_s is None else max(0.0, until_s - time.monotonic()))
            except asyncio.CancelledError:
                work.cancel()
                raise
            if not work.done():
                return ItemsDone(tuple(ends), running=True)
            try:
                ends.append(work.result())
            except BadRequest as error:
                ends.append(error)
            if not getattr(ends[-1], "clean", True) or (until_s is not None and time.monotonic() >= until_s):
                break
        return ItemsDone(tuple(ends))

    async def item_end(self, sandbox_id: str) -> ItemOutcome:
        self._called("item_end")
        self._sandbox(sandbox_id)
        return await self.items[sandbox_id]

    async def interrupt(self, sandbox_id: str, execution_id: str) -> None:
        self._called("interrupt")
        self._sandbox(sandbox_id)
        if execution_id in self.runs and self.runs[execution_id].playing:
            self.runs[execution_id].interrupted.set()
        self.interrupts.put_nowait(execution_id)

    async def create_context(self, sandbox_id: str, language: str | None, cwd: str | None) -> ContextInfo:
        self._called("create_context")
        self._sandbox(sandbox_id)
        context = ContextInfo(f"c{next(self._ids)}", language or "python", cwd or "/home/user")
        self.contexts_of[sandbox_id][context.context_id] = context
        return context

    async def contexts(self, sandbox_id: str) -> list[ContextInfo]:
        self._called("contexts")
        self._sandbox(sandbox_id)
        return list(self.contexts_of[sandbox_id].values())

    async def restart_context(self, sandbox_id: str, context_id: str) -> None:
        self._called("restart_context")
        self._context(sandbox_id, context_id)

    async def remove_context(self, sandbox_id: str, context_id: str) -> None:
        self._called("remove_context")
        self._context(sandbox_id, context_id)
        del self.contexts_of[sandbox_id][context_id]

    def _context(self, sandbox_id: str, context_id: str) -> ContextInfo:
        self._sandbox(sandbox_id)
        try:
            return self.contexts_of[sandbox_id][context_id]
        except KeyError:
            raise NotFound("context", context_id) from None

    async def agent(self, sandbox_id: str) -> LocalAgent:
        self._called("agent")
        return self.agent_of(sandbox_id)

    def agent_of(self, sandbox_id: str) -> LocalAgent:
        """One folder for each sandbox; the agent looks for itself whether the sandbox is there."""
        if sandbox_id not in self.agents:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="raybox-test-")

            def check() -> None:
                if self.fail_with is not None:
                    raise self.fail_with
                if self._sandbox(sandbox_id).state != "running":
                    raise NotFound("sandbox", sandbox_id)

            self.agents[sandbox_id] = LocalAgent(Path(self._folder.name).resolve() / sandbox_id, check)
        return self.agents[sandbox_id]

    async def environment(self, sandbox_id: str) -> dict[str, str]:
        self._called("environment")
        self._sandbox(sandbox_id)
        return self.environments.get(sandbox_id, {})

    async def metrics(
        self, sandbox_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ResourceUsage]:
        self._called("metrics")
        self._sandbox(sandbox_id)
        found = [one for one in self.samples if start_s is None or one.at_s >= start_s]
        return [one for one in found if end_s is None or one.at_s <= end_s]

    async def logs(self, sandbox_id: str) -> list[LogEntry]:
        self._called("logs")
        if sandbox_id not in self.gone:
            self._sandbox(sandbox_id)
        return self.entries

    async def lease(self, request: CreateRequest, *, recreate: bool) -> tuple[SandboxInfo, bool]:
        self._called("lease")
        assert request.lease is not None
        lease_id = (request.owner, request.lease.key)
        self.leased.append((request, recreate))
        if (known := self.leases.get(lease_id)) in self.live:
            return self.live[known], False
        if known is not None and self.gone[known] == "oom" and not recreate:
            del self.leases[lease_id]
            raise SandboxLost(known, "oom")
        info = await self.create(request)
        info = self.live[info.sandbox_id] = replace(info, lease=request.lease)
        self.leases[lease_id] = info.sandbox_id
        return info, True

    async def release_lease(self, api_key: str, key: str, sandbox_id: str | None) -> bool:
        self._called("release_lease")
        known = self.leases.get((api_key, key))
        if known not in self.live or sandbox_id not in (None, known):
            return False
        self.end(known, "killed")
        return True

    async def heartbeat(self, owner: LeaseOwner) -> int:
        self._called("heartbeat")
        self.heartbeats.append(owner)
        return sum(info.lease is not None and owner in info.lease.owners for info in self.live.values())

    async def heartbeat_lease(self, api_key: str, key: str) -> bool:
        self._called("heartbeat_lease")
        return self.leases.get((api_key, key)) in self.live

    async def status(self) -> PoolStatus:
        self._called("status")
        nodes = [NodeStatus(node_id="node-1", alive=True, zygote_ready=True, slots=2)]
        return PoolStatus(nodes, {"warm": 1, "running": 1}, capacity=2, warm=1, busy=0, claims_waiting=0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for agent in self.agents.values():
            await agent.close()
        if self._folder is not None:
            self._folder.cleanup()
