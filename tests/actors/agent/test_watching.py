"""Watching folders inside real walls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import WatchEvent
from tests.actors.agent.driving import Sandbox
from tests.actors.agent.test_files import failing

pytestmark = pytest.mark.anyio


def said(events: list[WatchEvent]) -> list[tuple[str, str]]:
    return [(event.kind, event.name) for event in events]


async def first(events: AsyncIterator[WatchEvent], count: int) -> list[WatchEvent]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


@pytest.mark.parametrize("size", [1, 700_000])
async def test_a_new_file_is_three_events(sandbox: Sandbox, size: int) -> None:
    watcher = await sandbox.agent.create_watcher("", "user", recursive=False, include_entry=False)
    await sandbox.write("file", bytes(size), metadata={"a": "b"})
    assert said(await sandbox.agent.watcher_events(watcher)) == [
        ("create", "file"),
        ("chmod", "file"),
        ("write", "file"),
    ]
    assert await sandbox.agent.watcher_events(watcher) == []
    await sandbox.write("file", b"again")
    assert said(await sandbox.agent.watcher_events(watcher)) == [
        ("write", "file"),
        ("chmod", "file"),
        ("write", "file"),
    ]
    await sandbox.write("file", b"again")
    assert said(await sandbox.agent.watcher_events(watcher)) == [("write", "file")]


async def test_every_kind(sandbox: Sandbox) -> None:
    watcher = await sandbox.agent.create_watcher("", "user", recursive=False, include_entry=True)
    await sandbox.sh("mkdir sub; touch sub/unseen; echo x > a; chmod 600 a; mv a b; rm b")
    events = await sandbox.agent.watcher_events(watcher)
    assert said(events) == [
        ("create", "sub"), ("create", "a"), ("write", "a"), ("chmod", "a"), ("rename", "a"), ("create", "b"),
        ("remove", "b"),
    ]  # fmt: skip
    assert events[0].entry is not None
    assert (events[0].entry.path, events[0].entry.file_type) == ("/home/user/sub", "directory")
    assert all(event.entry is None for event in events[1:])
    await sandbox.agent.remove_watcher(watcher)
    for call in (sandbox.agent.remove_watcher(watcher), sandbox.agent.watcher_events(watcher)):
        assert (await failing(call))[0] == "not_found"


async def test_a_stream(sandbox: Sandbox) -> None:
    async with sandbox.agent.watch("", "user", recursive=False, include_entry=True) as events:
        await sandbox.write("file", bytes(700_000))
        seen = await first(events, 3)
        assert said(seen) == [("create", "file"), ("chmod", "file"), ("write", "file")]
        assert seen[2].entry is not None
        assert seen[2].entry.size_bytes == 700_000
        await sandbox.agent.remove("file", "user")
        assert said(await first(events, 1)) == [("remove", "file")]


async def test_new_folders_are_watched_too(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir -p old/inner")
    async with sandbox.agent.watch("", "user", recursive=True, include_entry=False) as events:
        await sandbox.sh("touch old/inner/1")
        assert said(await first(events, 2))[0] == ("create", "old/inner/1")
        await sandbox.sh("mkdir -p new/deep; echo > new/deep/2")
        names = set()
        while ("create", "new/deep/2") not in names:
            names |= set(said(await first(events, 1)))
        assert {("create", "new"), ("create", "new/deep")} <= names
        await asyncio.sleep(0.05)
        await sandbox.sh("echo > new/deep/3; mv new/deep new/moved; echo > new/moved/4")
        while ("create", "new/moved/4") not in names:
            names |= set(said(await first(events, 1)))
        assert {("create", "new/deep/3"), ("rename", "new/deep"), ("create", "new/moved")} <= names


async def test_a_folder_that_goes_away(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir d")
    watcher = await sandbox.agent.create_watcher("d", "user", recursive=True, include_entry=False)
    await sandbox.sh("rmdir d")
    assert said(await sandbox.agent.watcher_events(watcher)) == [("remove", ".")]


async def test_what_cannot_be_watched(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"")
    await sandbox.sh("mkdir -m 700 /tmp/closed", user="root")
    for path, code in (("none", "not_found"), ("file", "invalid_argument"), ("/tmp/closed", "permission_denied")):
        assert (await failing(sandbox.agent.create_watcher(path, "user", recursive=True, include_entry=False)))[
            0
        ] == code
        with pytest.raises(AgentError) as caught:
            async with sandbox.agent.watch(path, "user", recursive=False, include_entry=False):
                pass
        assert caught.value.code == code


async def test_events_that_nobody_takes_are_bounded_and_marked(sandbox: Sandbox) -> None:
    watcher = await sandbox.agent.create_watcher("", "user", recursive=False, include_entry=False)
    await sandbox.sh("seq 1 15000 | xargs touch")
    events = await sandbox.agent.watcher_events(watcher)
    assert len(events) == 10_001
    assert said(events)[-1] == ("write", ".")
    assert await sandbox.agent.watcher_events(watcher) == []


async def test_watches_are_bounded(sandbox: Sandbox) -> None:
    def create() -> Awaitable[str]:
        return sandbox.agent.create_watcher("", "user", recursive=False, include_entry=False)

    watchers = [await create() for _ in range(64)]
    assert (await failing(create()))[0] == "resource_exhausted"
    await sandbox.agent.remove_watcher(watchers[0])
    await sandbox.agent.create_watcher("", "user", recursive=False, include_entry=False)
