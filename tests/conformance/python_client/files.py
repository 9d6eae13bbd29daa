"""Files."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from e2b import FilesystemEventType, FileType, InvalidArgumentException

from .programs import Absent, Client, kinds, needs, program, same, that

BYTES = bytes(range(256)) * 300


@program
async def files_write_and_read_text(c: Client) -> None:
    files = (await c.sandbox()).files
    written = await c.done(files.write("text/né.txt", "Grüße\n"))
    same((written.name, written.path), ("né.txt", "/home/user/text/né.txt"))
    same(await c.done(files.read("/home/user/text/né.txt")), "Grüße\n")
    await c.done(files.write("text/né.txt", ""))
    same(await c.done(files.read("~/text/né.txt")), "")


@program
async def files_read_bytes(c: Client) -> None:
    files = (await c.sandbox()).files
    await c.done(files.write("bytes", BYTES))
    same(bytes(await c.done(files.read("bytes", format="bytes"))), BYTES)


@program
async def files_read_stream(c: Client) -> None:
    files = (await c.sandbox()).files
    await c.done(files.write("stream", BYTES))
    stream = await c.done(files.read("stream", format="stream"))
    parts = [part async for part in stream] if c.asynchronous else list(stream)
    same(b"".join(parts), BYTES)


@program
async def files_write_file_object(c: Client) -> None:
    files = (await c.sandbox()).files
    await c.done(files.write("object", io.BytesIO(BYTES)))
    same(bytes(await c.done(files.read("object", format="bytes"))), BYTES)


@program
async def files_write_stream(c: Client) -> None:
    files = (await c.sandbox()).files
    needs(files, "write", "metadata")  # clients from before it take files and bytes only
    parts = [b"a" * 70_000, b"b"]

    async def later() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    await c.done(files.write("parts", later() if c.asynchronous else iter(parts)))
    same(bytes(await c.done(files.read("parts", format="bytes"))), b"a" * 70_000 + b"b")


@program
async def files_write_octet_stream(c: Client) -> None:
    files = (await c.sandbox()).files
    needs(files, "write", "use_octet_stream")
    await c.done(files.write("octets", BYTES, use_octet_stream=True))
    same(bytes(await c.done(files.read("octets", format="bytes"))), BYTES)


@program
async def files_gzip(c: Client) -> None:
    files = (await c.sandbox()).files
    needs(files, "write", "gzip")
    needs(files, "read", "gzip")
    await c.done(files.write("packed", BYTES, gzip=True))
    same(bytes(await c.done(files.read("packed", format="bytes", gzip=True))), BYTES)


@program
async def files_write_many(c: Client) -> None:
    files = (await c.sandbox()).files
    written = await c.done(files.write_files([{"path": "many/a", "data": "1"}, {"path": "many/b/c", "data": b"2"}]))
    same([one.path for one in written], ["/home/user/many/a", "/home/user/many/b/c"])
    same(await c.done(files.read("many/b/c")), "2")


@program
async def files_metadata(c: Client) -> None:
    files = (await c.sandbox()).files
    needs(files, "write", "metadata")
    written = await c.done(files.write("tagged", "x", metadata={"Author": "me"}))
    same(written.metadata, {"author": "me"})
    same((await c.done(files.get_info("tagged"))).metadata, {"author": "me"})
    await c.done(files.write("tagged", "y"))
    that(not (await c.done(files.get_info("tagged"))).metadata, "writing clears it")


@program
async def files_list(c: Client) -> None:
    files = (await c.sandbox()).files
    await c.done(files.write_files([{"path": f"tree/{path}", "data": ""} for path in ("b", "a/x/y", "c")]))
    same([one.name for one in await c.done(files.list("tree"))], ["a", "b", "c"])
    deep = [one.path.removeprefix("/home/user/tree/") for one in await c.done(files.list("tree", depth=3))]
    same(deep, ["a", "a/x", "a/x/y", "b", "c"])


@program
async def files_get_info(c: Client) -> None:
    sandbox = await c.sandbox()
    await c.done(sandbox.files.write("known/f", "12345"))
    await c.done(sandbox.commands.run("ln -s f known/link; chmod 640 known/f"))
    info = await c.done(sandbox.files.get_info("known/f"))
    same((info.name, info.type, info.path, info.size), ("f", FileType.FILE, "/home/user/known/f", 5))
    same((info.mode, info.permissions, info.owner, info.group), (0o640, "-rw-r-----", "user", "user"))
    that(abs(info.modified_time.timestamp() - time.time()) < 3600, "it was modified now")
    link = await c.done(sandbox.files.get_info("known/link"))
    same((link.name, link.symlink_target), ("link", "/home/user/known/f"))
    same((await c.done(sandbox.files.get_info("known"))).type, FileType.DIR)


@program
async def files_exists_make_rename_remove(c: Client) -> None:
    files = (await c.sandbox()).files
    same(await c.done(files.make_dir("made/deep")), True)
    same(await c.done(files.make_dir("made/deep")), False)
    await c.done(files.write("made/deep/f", "x"))
    same((await c.done(files.rename("made/deep", "made/moved"))).path, "/home/user/made/moved")
    same(await c.done(files.exists("made/deep")), False)
    same(await c.done(files.exists("made/moved/f")), True)
    await c.done(files.remove("made"))
    same(await c.done(files.exists("made")), False)
    await c.done(files.remove("made"))


@program
async def files_errors(c: Client) -> None:
    files = (await c.sandbox()).files
    for call in (files.read, files.list, files.get_info, files.watch_dir):
        more: tuple[Any, ...] = (lambda _: None,) if c.asynchronous and call == files.watch_dir else ()
        error = await c.raised(lambda call=call, more=more: call("no/such", *more))  # type: ignore[misc]
        that("NotFoundException" in kinds(error), f"not found: {error!r}")
    error = await c.raised(lambda: files.read("/tmp"))
    that(isinstance(error, InvalidArgumentException), f"a folder: {error!r}")
    error = await c.raised(lambda: files.list("/etc/passwd"))
    that(isinstance(error, InvalidArgumentException), f"no folder: {error!r}")


@program
async def files_user(c: Client) -> None:
    sandbox = await c.sandbox()
    await c.done(sandbox.files.write("/root/own", "x", user="root"))
    same((await c.done(sandbox.files.get_info("own", user="root"))).owner, "root")
    error = await c.raised(lambda: sandbox.files.read("x", user="nobody-here"))
    that("AuthenticationException" in kinds(error), f"who: {error!r}")


class Changes:
    """Events of a watch, asked for (sync) or delivered (async)."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: list[Any] = []
        self.handle: Any = None

    async def start(self, files: Any, path: str, **options: Any) -> None:
        heard = (self.seen.append,) if self.client.asynchronous else ()
        self.handle = await self.client.done(files.watch_dir(path, *heard, **options))

    async def until(self, ready: Callable[[list[tuple[str, Any]]], bool]) -> None:
        deadline = time.monotonic() + 20
        while not ready([(event.name, event.type) for event in self.seen]):
            that(time.monotonic() < deadline, f"it is told: {[(one.name, one.type.value) for one in self.seen]}")
            await asyncio.sleep(0.02)
            if not self.client.asynchronous:
                self.seen.extend(self.handle.get_new_events())


@program
async def files_watch(c: Client) -> None:
    files = (await c.sandbox()).files
    await c.done(files.make_dir("watched"))
    changes = Changes(c)
    await changes.start(files, "watched")
    await c.done(files.write("watched/new", "x"))
    await changes.until(lambda seen: ("new", FilesystemEventType.WRITE) in seen)
    wanted = [FilesystemEventType.CREATE, FilesystemEventType.CHMOD, FilesystemEventType.WRITE]
    same([event.type for event in changes.seen], wanted)
    await c.done(changes.handle.stop())


@program
async def files_watch_recursive(c: Client) -> None:
    sandbox = await c.sandbox()
    await c.done(sandbox.files.make_dir("deep"))
    changes = Changes(c)
    await changes.start(sandbox.files, "deep", recursive=True)
    await c.done(sandbox.commands.run("mkdir deep/sub; sleep 0.2; echo 1 > deep/sub/f; rm deep/sub/f"))
    await changes.until(lambda seen: ("sub/f", FilesystemEventType.REMOVE) in seen)
    that(("sub", FilesystemEventType.CREATE) in [(one.name, one.type) for one in changes.seen], "the folder")
    await c.done(changes.handle.stop())


@program
async def files_watch_entries(c: Client) -> None:
    files = (await c.sandbox()).files
    needs(files, "watch_dir", "include_entry")
    await c.done(files.make_dir("entries"))
    changes = Changes(c)
    await changes.start(files, "entries", include_entry=True)
    await c.done(files.write("entries/f", "123"))
    await changes.until(lambda seen: ("f", FilesystemEventType.WRITE) in seen)
    same(changes.seen[-1].entry.size, 3)
    await c.done(changes.handle.stop())


@program
async def files_signed_urls(c: Client) -> None:
    sandbox = await c.sandbox()
    up = await c.done(sandbox.upload_url("signed/f", use_signature_expiration=60))
    down = await c.done(sandbox.download_url("signed/f"))
    expired = await c.done(sandbox.download_url("signed/f", use_signature_expiration=-10))
    async with httpx.AsyncClient(timeout=30) as anybody:
        same((await anybody.post(up, files={"file": ("f", b"by url")})).status_code, 200)
        same((await anybody.get(down)).text, "by url")
        same((await anybody.get(down.replace("signature=v1_", "signature=v1_x"))).status_code, 401)
        late = await anybody.get(expired)
        same((late.status_code, late.json()["message"]), (401, "signature is already expired"))


@program
async def files_disk_full(c: Client) -> None:
    sandbox = await c.create()
    if not hasattr(__import__("e2b"), "NotEnoughSpaceException"):
        raise Absent("NotEnoughSpaceException")
    await c.done(sandbox.commands.run("head -c 100G /dev/zero > full 2>/dev/null || true"))
    error = await c.raised(lambda: sandbox.files.write("more", bytes(1_000_000)))
    that("NotEnoughSpaceException" in kinds(error), f"no space: {error!r}")
