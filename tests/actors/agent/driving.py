"""Driving an agent from a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from raybox_actors.agent.api import Agent
from raybox_actors.agent.values import ProcessEnded, ProcessEvent, ProcessOutput, ProcessSpec, ProcessStarted
from tests.actors.driving import Driver


def descriptors(pid: int) -> list[str]:
    """Numbers of what a process has open."""
    return sorted(entry.name for entry in Path(f"/proc/{pid}/fd").iterdir())


async def until(asked: Callable[[], Awaitable[bool]], timeout_s: float = 10.0) -> None:
    """Wait until the answer is yes."""
    async with asyncio.timeout(timeout_s):
        while not await asked():  # noqa: ASYNC110  # of the sandbox, which sends no events of it
            await asyncio.sleep(0.01)


@dataclass
class Outcome:
    """Of a process that ended."""

    pid: int = 0
    output: dict[str, bytes] = field(default_factory=lambda: {"stdout": b"", "stderr": b"", "pty": b""})
    end: ProcessEnded | None = None

    def take(self, event: ProcessEvent) -> None:
        assert self.end is None, "nothing follows the end"
        match event:
            case ProcessStarted(pid):
                assert not self.pid
                self.pid = pid
            case ProcessOutput(stream, data):
                assert self.pid
                self.output[stream] += data
            case ProcessEnded():
                self.end = event

    @property
    def stdout(self) -> str:
        return self.output["stdout"].decode()

    @property
    def code(self) -> int:
        assert self.end is not None
        return self.end.exit_code


class Sandbox:
    """A session's agent with the conveniences of a test."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.session = driver, driver.session
        self.agent: Agent = driver.session.agent()

    async def run(self, command: str, *arguments: str, **fields: object) -> Outcome:
        """To its end."""
        outcome = Outcome()
        spec = ProcessSpec(command, arguments, **{"stdin": False, **fields})  # type: ignore[arg-type]
        async with self.agent.start_process(spec) as events:
            async for event in events:
                outcome.take(event)
        return outcome

    async def sh(self, script: str, **fields: object) -> str:
        """What it prints; it must succeed."""
        outcome = await self.run("/bin/bash", "-c", script, **fields)
        assert outcome.code == 0, outcome
        return outcome.stdout.strip()

    async def write(self, path: str, data: bytes, user: str = "user", **fields: dict[str, str]) -> None:
        async with self.agent.open_write(path, user, **fields) as writer:
            await writer.write(data)
            await writer.commit()

    async def read(self, path: str, user: str = "user", **fields: int) -> bytes:
        async with self.agent.open_read(path, user, **fields) as reader:
            return b"".join([piece async for piece in reader])
