"""`filesystem.Filesystem` on port 49983 (contract 4.6): every method, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

from raybox_actors.agent.values import WatchEvent
from raybox_actors.fields import Json

from . import filesystem_messages as m
from .protojson import Message
from .rpc import Call, Method, mapped, unary


async def _stat(call: Call, message: Message) -> Json:
    return {"entry": m.entry_body(await call.agent.stat(m.path(message), call.user))}


async def _make_dir(call: Call, message: Message) -> Json:
    return {"entry": m.entry_body(await call.agent.make_dir(m.path(message), call.user))}


async def _move(call: Call, message: Message) -> Json:
    source, destination = m.path(message, "source"), m.path(message, "destination")
    return {"entry": m.entry_body(await call.agent.move(source, destination, call.user))}


async def _list_dir(call: Call, message: Message) -> Json:
    entries = await call.agent.list_dir(m.path(message), m.depth(message), call.user)
    return {"entries": [m.entry_body(entry) for entry in entries]}


async def _remove(call: Call, message: Message) -> Json:
    await call.agent.remove(m.path(message), call.user)
    return {}


def _watch_dir(call: Call, message: Message) -> AbstractAsyncContextManager[AsyncIterator[Json]]:
    """`allowNetworkMounts` asks for nothing here: there are none in a sandbox."""
    watch = call.agent.watch(
        m.path(message),
        call.user,
        recursive=message.flag("recursive"),
        include_entry=message.flag("includeEntry"),
    )

    def shape(event: WatchEvent) -> Json:
        return {"filesystem": m.event_body(event)}

    return mapped(watch, shape, first=m.STARTED)


async def _create_watcher(call: Call, message: Message) -> Json:
    watcher_id = await call.agent.create_watcher(
        m.path(message),
        call.user,
        recursive=message.flag("recursive"),
        include_entry=message.flag("includeEntry"),
    )
    return {"watcherId": watcher_id}


async def _get_watcher_events(call: Call, message: Message) -> Json:
    events = await call.agent.watcher_events(message.text("watcherId", 256))
    return {"events": [m.event_body(event) for event in events]}


async def _remove_watcher(call: Call, message: Message) -> Json:
    await call.agent.remove_watcher(message.text("watcherId", 256))
    return {}


FILESYSTEM: Mapping[str, Method] = {
    "Stat": unary(_stat),
    "MakeDir": unary(_make_dir),
    "Move": unary(_move),
    "ListDir": unary(_list_dir),
    "Remove": unary(_remove),
    "WatchDir": Method(stream=_watch_dir, keepalive=m.KEEPALIVE),
    "CreateWatcher": unary(_create_watcher),
    "GetWatcherEvents": unary(_get_watcher_events),
    "RemoveWatcher": unary(_remove_watcher),
}
