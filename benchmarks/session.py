"""A sandbox without a pool: walls, kernel and agent in this process's hands. For what is below HTTP and Ray."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from raybox_actors.agent.helpers import write_helpers
from raybox_actors.agent.values import ProcessOutput, ProcessSpec
from raybox_actors.isolation.policy import WallsPolicy, layers_of
from raybox_actors.isolation.walls import write_skeleton
from raybox_actors.session import Session, SessionOptions, open_session
from raybox_actors.zygote_process import spawn_zygote
from raybox_template.build import ensure


@contextlib.asynccontextmanager
async def options() -> AsyncIterator[SessionOptions]:
    """What sessions of this node start from; their zygote lives within the context."""
    template = ensure("default")
    with tempfile.TemporaryDirectory(prefix="rbb-") as name:
        folder = Path(name)
        zygote = spawn_zygote(str(template.python), str(folder / "z.sock"), folder / "zygote.log")
        try:
            zygote.wait_until_ready()
            skeleton, read_only = folder / "etc", tuple(str(prefix) for prefix in template.prefixes)
            policy = WallsPolicy(read_only=read_only, layers=layers_of(str(skeleton), read_only), mark="bench:0:0")
            write_skeleton(skeleton, policy)
            write_helpers(skeleton, str(template.python))
            yield SessionOptions(0, zygote.address, str(template.python), skeleton, policy)
        finally:
            zygote.stop()


@contextlib.asynccontextmanager
async def sandbox(given: SessionOptions) -> AsyncIterator[Session]:
    session = await open_session(given, lambda: None)
    try:
        yield session
    finally:
        await session.close()


async def command(session: Session, *argv: str) -> bytes:
    """Its output; it has to succeed."""
    said, code = b"", -1
    async with session.agent().start_process(ProcessSpec(argv[0], argv[1:], stdin=False)) as events:
        async for event in events:
            if isinstance(event, ProcessOutput):
                said += event.data
            else:
                code = getattr(event, "exit_code", code)
    assert code == 0, said
    return said
