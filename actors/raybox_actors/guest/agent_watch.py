"""Watching folders (contract 4.6), by inotify: as a stream, or collected until somebody asks."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import struct
from collections import deque
from typing import Any

from agent_files import FOLDER, STEPS_PER_TURN, entry, handle, no_folder
from agent_users import User, acting_as, find_user, open_at, resolve
from agent_wire import EVENTS, OK, Connection, Failure, failure_of, wait_readable
from walls import check, libc

CREATE, MODIFY, ATTRIB, DELETE, MOVED_FROM, MOVED_TO = 0x100, 0x2, 0x4, 0x200, 0x40, 0x80
DELETE_SELF, MOVE_SELF, OVERFLOW, IGNORED, IS_FOLDER = 0x400, 0x800, 0x4000, 0x8000, 0x40000000
ONLY_FOLDERS, UNTIL_UNLINKED = 0x01000000, 0x04000000
MASK = (
    CREATE | MODIFY | ATTRIB | DELETE | MOVED_FROM | MOVED_TO | DELETE_SELF | MOVE_SELF | ONLY_FOLDERS | UNTIL_UNLINKED
)
KINDS = {
    CREATE: "create", MOVED_TO: "create", MODIFY: "write", ATTRIB: "chmod", DELETE: "remove", MOVED_FROM: "rename",
    DELETE_SELF: "remove", MOVE_SELF: "rename",
}  # fmt: skip
#: What may come twice in a row and says the same: one writing of a file in pieces, say.
REPEATABLE = ("write", "chmod")

MAX_WATCHES = 64
#: Folders of one watch, and events of one that nobody has taken.
MAX_FOLDERS, MAX_EVENTS = 8192, 10_000
#: A stream waits so long for what follows an event, to say in one what belongs together.
BATCH_S = 0.02
EVENTS_PER_FRAME = 200
READ_BYTES = 64 * 1024
#: Says that events were lost, about the watched folder itself.
LOST = {"name": ".", "kind": "write", "entry": None}


class Watch:
    """One watched folder. Raises Failure if it cannot be."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.user: User = find_user(asked.get("user"))
        self.path = resolve(asked.get("path"), self.user)
        self.recursive, self.with_entry = bool(asked.get("recursive")), bool(asked.get("include_entry"))
        self.folders: dict[int, str] = {}  #: what each is called, relative to the watched one, by inotify's number
        self.events: deque[dict[str, Any]] = deque()
        self.lost = False
        #: Told by us already, since they were there before the folder that they are in could be watched.
        self.told: set[str] = set()
        self.leaving: dict[int, str] = {}  #: folders that got another name, by the number that goes with it
        self.fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise Failure("resource_exhausted", f"no more watches: {os.strerror(ctypes.get_errno())}")
        try:
            self._add("", fresh=False)
        except NotADirectoryError:
            self.close()
            raise no_folder(self.path, self.user) from None
        except OSError as error:
            self.close()
            raise failure_of(error, self.path) from None
        except BaseException:
            self.close()
            raise
        if len(self.folders) >= MAX_FOLDERS:
            self.close()
            raise Failure("resource_exhausted", f"there are {MAX_FOLDERS} folders or more below '{self.path}'")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _add(self, name: str, fresh: bool) -> None:
        """Watch it and, if asked, those inside. What is in a fresh one has been made unseen."""
        todo = [name]
        while todo:
            name = todo.pop()
            if len(self.folders) >= MAX_FOLDERS:
                self.lost = True
                return
            try:
                inside = self._add_one(name)
            except OSError:
                if not name:
                    raise
                continue  # it went away, or is not ours to look into
            for child, is_folder in inside:
                relative = f"{name}/{child}" if name else child
                if fresh:
                    self.told.add(relative)
                    self._append("create", relative)
                if is_folder:
                    todo.append(relative)

    def _add_one(self, name: str) -> list[tuple[str, bool]]:
        """Names inside, and which are folders; nothing unless the watch is recursive."""
        path = f"{self.path.rstrip('/')}/{name}" if name else self.path
        with acting_as(self.user):
            fd = open_at(path, os.O_RDONLY | FOLDER | (os.O_NOFOLLOW if name else 0))
            try:
                number = libc.inotify_add_watch(self.fd, handle(fd).encode(), MASK)
                if number < 0:
                    check(1, "inotify_add_watch")
                self.folders[number] = name
                if not self.recursive:
                    return []
                with os.scandir(fd) as found:
                    inside = itertools.islice(found, MAX_EVENTS)
                    return [(one.name, one.is_dir(follow_symlinks=False)) for one in inside]
            finally:
                os.close(fd)

    def _append(self, kind: str, name: str) -> None:
        last = self.events[-1] if self.events else None
        if last is not None and kind in REPEATABLE and (last["kind"], last["name"]) == (kind, name):
            return
        if len(self.events) >= MAX_EVENTS:
            self.lost = True
            return
        self.events.append({"name": name, "kind": kind, "entry": None})

    def drain(self) -> None:
        """Take over what the system has collected until now."""
        while True:
            try:
                data = os.read(self.fd, READ_BYTES)
            except BlockingIOError:
                break
            position = 0
            while position < len(data):
                number, mask, cookie, length = struct.unpack_from("iIII", data, position)
                position += 16
                name = os.fsdecode(data[position : position + length].rstrip(b"\0"))
                position += length
                self._happened(number, mask, cookie, name)
        self.told.clear()
        for name in self.leaving.values():
            self._rename(name, None)
        self.leaving.clear()

    def _happened(self, number: int, mask: int, cookie: int, name: str) -> None:
        if mask & OVERFLOW:
            self.lost = True
        if mask & IGNORED:
            self.folders.pop(number, None)
        kind = next((kind for bit, kind in KINDS.items() if mask & bit), None)
        folder = self.folders.get(number)
        if kind is None or folder is None:
            return
        if not name:  # of the folder itself: the one above tells it, if there is one
            if not folder and mask & (DELETE_SELF | MOVE_SELF):
                self._append(kind, ".")
            return
        relative = f"{folder}/{name}" if folder else name
        if relative in self.told and mask & CREATE:
            self.told.discard(relative)
        else:
            self._append(kind, relative)
        if self.recursive and mask & IS_FOLDER:
            if mask & MOVED_FROM:
                self.leaving[cookie] = relative
            elif mask & MOVED_TO and (old := self.leaving.pop(cookie, None)) is not None:
                self._rename(old, relative)
            elif mask & (CREATE | MOVED_TO):
                self._add(relative, fresh=bool(mask & CREATE))

    def _rename(self, old: str, new: str | None) -> None:
        """A folder that is watched has another name now, or has left what is watched."""
        for number, folder in list(self.folders.items()):
            if folder == old or folder.startswith(f"{old}/"):
                if new is not None:
                    self.folders[number] = new + folder.removeprefix(old)
                else:
                    del self.folders[number]
                    libc.inotify_rm_watch(self.fd, number)

    async def take(self) -> list[dict[str, Any]]:
        """All since the last time, what happened a moment ago included."""
        self.drain()
        events, self.events = list(self.events), deque()
        if self.lost:
            self.lost = False
            events.append(dict(LOST))
        if self.with_entry:
            for count, event in enumerate(events):
                if event["kind"] not in ("remove", "rename"):
                    with contextlib.suppress(OSError), acting_as(self.user):
                        event["entry"] = entry(f"{self.path.rstrip('/')}/{event['name']}")
                if count % STEPS_PER_TURN == STEPS_PER_TURN - 1:
                    await asyncio.sleep(0)
        return events


class Watches:
    """Those that somebody streams, and those that are asked for their events."""

    def __init__(self) -> None:
        self.streams = 0
        self.collecting: dict[str, Watch] = {}

    def _open(self, asked: dict[str, Any]) -> Watch:
        if self.streams + len(self.collecting) >= MAX_WATCHES:
            raise Failure("resource_exhausted", f"{MAX_WATCHES} folders are watched, the limit")
        return Watch(asked)

    async def stream(self, asked: dict[str, Any], connection: Connection) -> None:
        """OK once it is watched, then EVENTS until the other end hangs up."""
        watch = self._open(asked)
        self.streams += 1
        try:
            await connection.send_json(OK, {})
            gone = asyncio.ensure_future(connection.hung_up())
            telling = asyncio.ensure_future(self._tell(watch, connection))
            try:
                await asyncio.wait({gone, telling}, return_when=asyncio.FIRST_COMPLETED)
                if telling.done():
                    telling.result()
            finally:
                for task in (gone, telling):
                    task.cancel()
                await asyncio.wait({gone, telling})
        finally:
            self.streams -= 1
            watch.close()

    @staticmethod
    async def _tell(watch: Watch, connection: Connection) -> None:
        while True:
            await wait_readable(watch.fd)
            watch.drain()
            await asyncio.sleep(BATCH_S)
            events = await watch.take()
            for start in range(0, len(events), EVENTS_PER_FRAME):
                await connection.send_json(EVENTS, events[start : start + EVENTS_PER_FRAME])

    def create(self, asked: dict[str, Any]) -> dict[str, str]:
        watch = self._open(asked)
        watcher_id = os.urandom(16).hex()
        self.collecting[watcher_id] = watch
        # Folders that are made have to be watched before much happens in them.
        asyncio.get_running_loop().add_reader(watch.fd, watch.drain)
        return {"watcher_id": watcher_id}

    def _find(self, asked: dict[str, Any]) -> Watch:
        watch = self.collecting.get(str(asked.get("watcher_id")))
        if watch is None:
            raise Failure("not_found", f"watcher with id {str(asked.get('watcher_id'))[:100]} not found")
        return watch

    async def take(self, asked: dict[str, Any], connection: Connection) -> None:
        """EVENTS, then OK."""
        events = await self._find(asked).take()
        for start in range(0, len(events), EVENTS_PER_FRAME):
            await connection.send_json(EVENTS, events[start : start + EVENTS_PER_FRAME])
        await connection.send_json(OK, {})

    def remove(self, asked: dict[str, Any]) -> dict[str, str]:
        watch = self._find(asked)
        del self.collecting[str(asked["watcher_id"])]
        asyncio.get_running_loop().remove_reader(watch.fd)
        watch.close()
        return {}
