"""Actors with the interface of the real ones and no walls: a kernel that knows only the machine of lifecycle.py."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from dataclasses import replace
from typing import Any

import ray

from raybox_actors.config import NAMESPACE, NodeFacts, PoolConfig, manager_name, sandbox_actor_name
from raybox_actors.errors import BadRequest, Cause, InternalError, NotFound, SandboxLost, SlotTaken
from raybox_actors.lifecycle import Claimed, Destroyed, KillAsked, Lifecycle, PrepareAsked, Prepared
from raybox_actors.sandbox_id import ENTROPY_BYTES, mint
from raybox_actors.values import CreateRequest, EventBatch, ExecuteRequest, Lease, SandboxInfo, SlotDescription


class FakeNodeAgent:
    def __init__(self, config: PoolConfig, node_id: str) -> None:
        self.config, self.node_id = config, node_id

    async def start(self) -> NodeFacts:
        return NodeFacts("", "", (), "")

    async def stop(self) -> None:
        pass

    async def ping(self) -> dict[str, int | bool]:
        return {"zygote_ready": True, "leaked_cgroups": 0}


class BrokenNodeAgent(FakeNodeAgent):
    async def start(self) -> NodeFacts:
        raise InternalError("no bubblewrap on this node")


class FakeSandboxActor:
    def __init__(self, config: PoolConfig, node_id: str, slot: int, placement: str = "") -> None:
        self.config, self.node_id, self.slot, self.placement = config, node_id, slot, placement
        self.life = Lifecycle()
        self.sequence = 0
        self.info_now: SandboxInfo | None = None
        self.started = False
        self.claims = 0  #: asked for, granted or not
        self.silent_claims = False  #: grants claims and does not say so
        self.manager: Any = None

    def describe_now(self) -> SlotDescription:
        name = sandbox_actor_name(self.config, self.node_id, self.slot)
        life = self.life
        return SlotDescription(
            name, self.node_id, self.slot, life.epoch, life.state, self.info_now, 0, self.sequence, self.placement
        )

    def apply(self, *events: Any) -> SlotDescription:
        for event in events:
            self.life.handle(event)
        if self.life.sandbox_id is None:
            self.info_now = None
        self.sequence += 1
        if self.manager is not None:
            self.manager.slot_changed.remote(self.describe_now())
        return self.describe_now()

    async def start(self) -> SlotDescription:
        self.started = True
        self.manager = ray.get_actor(manager_name(self.config), namespace=NAMESPACE)
        return self.describe_now()

    async def describe(self) -> SlotDescription:
        if not self.started:
            raise InternalError("the sandbox actor has not been started")
        return self.describe_now()

    async def prepare(self) -> SlotDescription:
        if self.life.state != "idle":
            return self.describe_now()
        return self.apply(PrepareAsked(), Prepared())

    async def ping(self) -> int:
        return os.getpid()

    async def claim(self, request: CreateRequest) -> SandboxInfo:
        self.claims += 1
        if request.timeout_s > self.config.max_timeout_s:
            raise BadRequest("timeout is too long")
        if self.life.state not in ("idle", "warm"):
            raise SlotTaken(f"slot {self.slot} is {self.life.state}")
        now = time.time()
        entropy = secrets.token_bytes(ENTROPY_BYTES)
        sandbox_id = mint(self.config.secret, self.node_id, self.slot, self.life.epoch, entropy)
        self.info_now = SandboxInfo(
            sandbox_id,
            request.template,
            "running",
            now,
            now + request.timeout_s,
            request.metadata,
            1,
            1,
            1,
            request.owner,
            node_id=self.node_id,
            idempotency_key=request.idempotency_key,
            gang=request.gang,
            pending=bool(request.gang),
            lease=request.lease,
        )
        warm = self.life.state == "warm"
        info = self.info_now
        self.apply(Claimed(sandbox_id, now + request.timeout_s, now), *([] if warm else [Prepared()]))
        if self.silent_claims:
            await asyncio.sleep(3600)
        return info

    async def confirm(self, sandbox_id: str, timeout_s: float) -> SlotDescription:
        self.info_now = replace(self.current(sandbox_id), pending=False, end_at_s=time.time() + timeout_s)
        self.sequence += 1
        return self.describe_now()

    def current(self, sandbox_id: str) -> SandboxInfo:
        if self.info_now is not None and self.life.sandbox_id == sandbox_id:
            return self.info_now
        if cause := self.life.cause_of(sandbox_id):
            raise SandboxLost(sandbox_id, cause)
        raise NotFound("sandbox", sandbox_id)

    async def info(self, sandbox_id: str) -> SandboxInfo:
        return self.current(sandbox_id)

    async def renew_lease(self, sandbox_id: str, lease: Lease) -> SandboxInfo:
        info = self.info_now = replace(self.current(sandbox_id), lease=lease)
        return info

    async def kill(self, sandbox_id: str, cause: Cause = "killed") -> None:
        self.current(sandbox_id)
        self.apply(KillAsked(cause), Destroyed())

    async def execute(self, sandbox_id: str, request: ExecuteRequest) -> EventBatch:
        self.current(sandbox_id)
        if request.code == "die":
            os._exit(1)
        return EventBatch(request.execution_id, 0, 1, b'{"type":"end_of_execution"}\n', True)

    async def contexts(self, sandbox_id: str) -> list[Any]:
        raise RuntimeError("a bug")

    async def retire(self) -> None:
        ray.actor.exit_actor()
