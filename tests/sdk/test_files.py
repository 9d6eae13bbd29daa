"""Files of both colours against a real server that plays recorded answers."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

import raybox
from raybox import AsyncSandbox, EntryInfo, FilesystemEvent, FilesystemEventType, FileType, Sandbox, WriteInfo
from tests.sdk.player import (
    ABORT,
    CLOSED,
    CREATED,
    GONE,
    HANG,
    SANDBOX_ID,
    UNAUTHORIZED,
    Answer,
    Player,
    Seen,
    ended,
    messages,
    reply,
    rpc_error,
)

pytestmark = pytest.mark.anyio

Done = Callable[[Any], Awaitable[Any]]
PATH = "/filesystem.Filesystem/"
MISSING = reply(404, {"code": 404, "message": "path '/x' does not exist"})

ENTRY = {
    "name": "a.txt",
    "type": "FILE_TYPE_FILE",
    "path": "/home/user/a.txt",
    "size": "7",
    "mode": 420,
    "permissions": "-rw-r--r--",
    "owner": "user",
    "group": "users",
    "modifiedTime": "2025-01-02T03:04:05.123456789Z",
}
INFO = EntryInfo(
    name="a.txt",
    type=FileType.FILE,
    path="/home/user/a.txt",
    size=7,
    mode=0o644,
    permissions="-rw-r--r--",
    owner="user",
    group="users",
    modified_time=datetime(2025, 1, 2, 3, 4, 5, 123456, UTC),
)
WRITTEN = {"name": "a.txt", "path": "/home/user/a.txt", "type": "file"}


@pytest.fixture
async def sandbox(colour: Any, options: dict[str, Any], done: Done) -> Any:
    return await done(colour.create(**options))


def parts(asked: Seen) -> list[tuple[str, bytes]]:
    """File names and contents of a form."""
    boundary = asked.headers["content-type"].split("boundary=")[1].encode()
    first, *found, last = asked.body.split(b"--" + boundary)
    assert (first, last) == (b"", b"--\r\n")
    listed = []
    for part in found:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b'Content-Disposition: form-data; name="file"; filename="')
        listed.append((head.split(b'filename="')[1].split(b'"')[0].decode(), content.removesuffix(b"\r\n")))
    return listed


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_read(sandbox: Any, player: Player, done: Done) -> None:
    player.on("GET", "/files", reply(200, "ä\xff".encode("latin-1") + "€".encode()))
    assert await done(sandbox.files.read("a b/ü+&", user="root")) == "\ufffd\ufffd€"
    asked = player.seen[-1]
    assert parse_qs(asked.query) == {"path": ["a b/ü+&"], "username": ["root"]}
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["e2b-sandbox-id"] == SANDBOX_ID
    assert asked.headers["e2b-sandbox-port"] == "49983"
    assert asked.headers["x-access-token"] == "envd-token"
    content = await done(sandbox.files.read("x", format="bytes"))
    assert content == bytearray(b"\xe4\xff\xe2\x82\xac")
    assert isinstance(content, bytearray)
    player.on("GET", "/files", reply(200, b""))
    assert await done(sandbox.files.read("x")) == ""
    assert await collected(await done(sandbox.files.read("x", "stream"))) == b""


async def collected(stream: Any) -> bytes:
    found = b""
    if hasattr(stream, "__aiter__"):
        async for piece in stream:
            found += piece
    else:
        for piece in stream:
            found += piece
    return found


@pytest.mark.parametrize("cut", [1, 10, 100_000])
async def test_read_what_is_compressed(sandbox: Any, player: Player, done: Done, cut: int) -> None:
    content = b"".join(str(number).encode() for number in range(5000))
    packed = gzip.compress(content[:9000]) + gzip.compress(content[9000:])  # two members are one stream
    steps = [packed[at : at + cut] for at in range(0, len(packed), cut)]
    player.on("GET", "/files", Answer(200, tuple(steps), {"content-encoding": "gzip"}))
    assert await done(sandbox.files.read("x", "bytes", gzip=True)) == content
    assert player.seen[-1].headers["accept-encoding"] == "gzip"
    assert await collected(await done(sandbox.files.read("x", "stream", gzip=True))) == content


async def test_what_cannot_be_unpacked(sandbox: Any, player: Player, done: Done) -> None:
    player.on("GET", "/files", Answer(200, (b"\x1f\x8bnot at all", b"x" * 100), {"content-encoding": "gzip"}))
    with pytest.raises(raybox.SandboxException, match="unpacked"):
        await done(sandbox.files.read("x", gzip=True))


async def test_a_bomb_is_unpacked_piece_by_piece(player: Player) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(b"\0" * 2**20) for _ in range(200)) + bomb.flush()
    player.on("GET", "/files", Answer(200, (packed,), {"content-encoding": "gzip"}))
    sandbox = Sandbox.create(**player.options)
    sizes = [len(piece) for piece in sandbox.files.read("x", "stream", gzip=True)]
    assert sum(sizes) == 200 * 2**20
    assert max(sizes) <= 256 * 1024


async def test_a_stream_may_be_left_early(sandbox: Any, player: Player, done: Done) -> None:
    player.on("GET", "/files", Answer(200, (b"first", HANG)))
    reader = await done(sandbox.files.read("x", "stream"))
    assert await done(anext(reader) if hasattr(reader, "__anext__") else next(reader)) == b"first"
    await done(reader.close())
    await done(reader.close())
    assert await asyncio.to_thread(player.client_left.wait, 10)


async def test_a_stream_that_is_never_read_ends_with_its_owner(sandbox: Any, player: Player, done: Done) -> None:
    player.on("GET", "/files", Answer(200, (b"first", HANG)))
    reader = await done(sandbox.files.read("x", "stream"))
    if hasattr(reader, "__aexit__"):
        async with reader:
            pass
    else:
        with reader:
            pass
    assert await asyncio.to_thread(player.client_left.wait, 10)


async def test_a_stream_that_stands_still(sandbox: Any, player: Player, done: Done) -> None:
    player.on("GET", "/files", Answer(200, (b"first", HANG)))
    reader = await done(sandbox.files.read("x", "stream", stream_idle_timeout=0.1))
    with pytest.raises(raybox.TimeoutException, match=r"for 0\.1 s") as caught:
        await collected(reader)
    assert caught.value.retryable
    with pytest.raises(raybox.TimeoutException, match=r"for 0\.1 s"):
        await done(sandbox.files.read("x", request_timeout=0.1))
    reader = await done(sandbox.files.read("x", "stream", request_timeout=0.1))
    with pytest.raises(raybox.TimeoutException):
        await collected(reader)


async def test_more_than_may_be_read_at_once(
    sandbox: Any, player: Player, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybox._files.MAX_READ_BYTES", 10)
    player.on("GET", "/files", Answer(200, (b"x" * 10,)))
    assert len(await done(sandbox.files.read("x"))) == 10
    player.on("GET", "/files", Answer(200, (b"x" * 6, b"x" * 5)))
    with pytest.raises(raybox.LimitException, match="format='stream'"):
        await done(sandbox.files.read("x"))
    assert len(await collected(await done(sandbox.files.read("x", "stream")))) == 11


@pytest.mark.parametrize("health", [reply(204), GONE], ids=["running", "gone"])
async def test_a_download_that_is_cut(sandbox: Any, player: Player, done: Done, health: Answer) -> None:
    player.on("GET", "/files", Answer(200, (b"first", ABORT)))
    player.on("GET", "/health", health)
    expected = raybox.SandboxNotRunningException if health is GONE else raybox.SandboxException
    with pytest.raises(expected) as caught:
        await done(sandbox.files.read("x"))
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("answer", "expected", "mask"),
    [
        (MISSING, raybox.FileNotFoundException, False),
        (reply(404, {"code": 404, "message": "gone", "kind": "not_found"}), raybox.FileNotFoundException, False),
        (reply(400, {"code": 400, "message": "path '/x' is a directory"}), raybox.InvalidArgumentException, False),
        (reply(401, {"code": 401, "message": "invalid username: 'x'"}), raybox.AuthenticationException, True),
        (reply(507, {"code": 507, "message": "no space left"}), raybox.NotEnoughSpaceException, False),
        (reply(429, {"code": 429, "message": "slow down"}), raybox.RateLimitException, True),
        (GONE, raybox.SandboxNotRunningException, True),
        (CLOSED, raybox.SandboxUnreachableException, True),
        (UNAUTHORIZED, raybox.AuthenticationException, True),
        (reply(500, b"oops"), raybox.SandboxException, True),
    ],
)
async def test_refusals(
    sandbox: Any, player: Player, done: Done, answer: Answer, expected: type[raybox.RayboxError], mask: bool
) -> None:
    player.on("GET", "/files", answer)
    player.on("POST", "/files", answer)
    calls: list[Callable[[], Any]] = [
        lambda: sandbox.files.read("x"),
        lambda: sandbox.files.read("x", "stream"),
        lambda: sandbox.files.write("x", b"y"),
    ]
    for call in calls:
        with pytest.raises(raybox.RayboxError) as caught:
            await done(call())
        assert (type(caught.value), caught.value.should_mask_sample) == (expected, mask)


# --- writing ---------------------------------------------------------------------------------------------------------


async def test_write_sends_a_form(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/files", reply(200, [WRITTEN]), reply(200, [WRITTEN | {"metadata": {"a": "b"}}]))
    assert await done(sandbox.files.write("ä b.txt", "héllo")) == WriteInfo("a.txt", FileType.FILE, "/home/user/a.txt")
    asked = player.seen[-1]
    assert parse_qs(asked.query) == {"path": ["ä b.txt"]}
    assert parts(asked) == [("ä b.txt", "héllo".encode())]
    assert asked.headers["content-length"] == str(len(asked.body))
    info = await done(sandbox.files.write("x", b"\0\r\n--", user="root", metadata={"Author": "me"}))
    assert info.metadata == {"a": "b"}
    asked = player.seen[-1]
    assert parse_qs(asked.query) == {"path": ["x"], "username": ["root"]}
    assert asked.headers["x-metadata-author"] == "me"
    assert parts(asked) == [("x", b"\0\r\n--")]


async def test_write_several(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/files", reply(200, [WRITTEN, WRITTEN]))
    files = [{"path": "/a/ü", "data": "1"}, {"path": 'q"q', "data": b"2"}]
    assert len(await done(sandbox.files.write_files(files))) == 2
    asked = player.seen[-1]
    assert asked.query == ""
    assert parts(asked) == [("/a/ü", b"1"), ("q%22q", b"2")]
    player.seen.clear()
    assert await done(sandbox.files.write_files([])) == []
    assert player.seen == []
    with pytest.raises(raybox.SandboxException, match="expected 1 files"):
        await done(sandbox.files.write("x", "y"))


def pieces(colour: Any, *given: bytes) -> Any:
    def blocking() -> Iterator[bytes]:
        yield from given

    async def asynchronous() -> AsyncIterator[bytes]:
        for piece in given:
            yield piece

    return blocking() if colour is Sandbox else asynchronous()


async def test_what_is_streamed_goes_bare(
    sandbox: Any, colour: Any, player: Player, done: Done, tmp_path: Path
) -> None:
    player.on("POST", "/files", reply(200, [WRITTEN]))
    (tmp_path / "f").write_bytes(b"\xff" * 300_000)
    with (tmp_path / "f").open("rb") as file:
        for data, expected in (
            (pieces(colour, b"one", b"", b"two"), b"onetwo"),
            (file, b"\xff" * 300_000),
            (io.StringIO("ä" * 200_000), "ä".encode() * 200_000),
            (io.BytesIO(), b""),
        ):
            await done(sandbox.files.write("x", data))
            asked = player.seen[-1]
            assert asked.body == expected
            assert asked.headers["content-type"] == "application/octet-stream"
            assert asked.headers["transfer-encoding"] == "chunked"
            assert parse_qs(asked.query) == {"path": ["x"]}
    await done(sandbox.files.write("x", "held", use_octet_stream=True))
    assert (player.seen[-1].body, player.seen[-1].headers["content-length"]) == (b"held", "4")
    await done(sandbox.files.write("x", pieces(colour, b"one", b"two"), use_octet_stream=False))
    assert parts(player.seen[-1]) == [("x", b"onetwo")]


async def test_write_several_that_are_streamed(sandbox: Any, colour: Any, player: Player, done: Done) -> None:
    player.on("POST", "/files", reply(200, [WRITTEN]))
    player.seen.clear()
    files = [{"path": "a", "data": "1"}, {"path": "b", "data": pieces(colour, b"2")}]
    assert len(await done(sandbox.files.write_files(files, metadata={"k": "v"}))) == 2
    assert [(parse_qs(one.query)["path"], one.body, one.headers["x-metadata-k"]) for one in player.seen] == [
        (["a"], b"1", "v"),
        (["b"], b"2", "v"),
    ]


async def test_write_compressed(sandbox: Any, colour: Any, player: Player, done: Done) -> None:
    player.on("POST", "/files", reply(200, [WRITTEN]))
    for data in ("abc" * 1000, pieces(colour, b"abc" * 500, b"abc" * 500)):
        await done(sandbox.files.write("x", data, gzip=True))
        asked = player.seen[-1]
        assert asked.headers["content-encoding"] == "gzip"
        assert asked.headers["content-type"] == "application/octet-stream"
        assert len(asked.body) < 100
        assert gzip.decompress(asked.body) == b"abc" * 1000
    with pytest.raises(raybox.InvalidArgumentException, match="gzip"):
        await done(sandbox.files.write("x", "y", gzip=True, use_octet_stream=False))


async def test_what_the_callers_data_raises_reaches_them(sandbox: Any, colour: Any, player: Player, done: Done) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise LookupError

    async def broken_async() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError

    with pytest.raises(LookupError):
        await done(sandbox.files.write("x", broken() if colour is Sandbox else broken_async()))
    with pytest.raises(raybox.InvalidArgumentException, match="got int"):
        await done(sandbox.files.write("x", [b"x", 5]))


async def test_a_refusal_in_the_middle_of_an_upload_arrives(colour: Any, player: Player, done: Done) -> None:
    """The server answers while most of the body is still to come; to asyncio it has to listen on to be heard."""
    sandbox = await done(colour.create(**player.options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sandbox._channel.address = sandbox._channel.address._replace(
            envd_url=f"http://127.0.0.1:{listener.getsockname()[1]}"
        )

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100_000)
                connection.sendall(
                    b"HTTP/1.1 507 Insufficient Storage\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    b'Content-Length: 37\r\n\r\n{"code": 507, "message": "disk full"}'
                )
                connection.shutdown(socket.SHUT_WR)
                while colour is AsyncSandbox and connection.recv(1_000_000):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(raybox.NotEnoughSpaceException, match="disk full"):
            await done(sandbox.files.write("x", pieces(colour, *(b"x" * 1_000_000,) * 50)))
        thread.join()


@pytest.mark.parametrize(
    "call",
    [
        lambda files: files.write(5, "x"),
        lambda files: files.write("x", 5),
        lambda files: files.write_files([{"path": "x", "data": "y"}, {"path": "x", "data": None}]),
        lambda files: files.write("x", "y", metadata={"a b": "c"}),
        lambda files: files.write("x", "y", metadata={"a": "ä"}),
        lambda files: files.write("x", "y", metadata={"a": "b\r\nX-Other: c"}),
        lambda files: files.read("x", format="json"),
        lambda files: files.read("a\0b"),
        lambda files: files.read("x", request_timeout=-1),
        lambda files: files.list("x", depth=0),
        lambda files: files.exists(None),
    ],
)
async def test_what_cannot_be_meant_is_refused_here(sandbox: Any, player: Player, done: Done, call: Any) -> None:
    player.seen.clear()
    player.on("POST", "/files", reply(200, [WRITTEN]))
    with pytest.raises(raybox.InvalidArgumentException):
        await done(call(sandbox.files))
    assert player.seen == []


async def test_memory_is_flat(colour: Any, player: Player, done: Done) -> None:
    """300 MB either way, and never more than a few of them in memory."""
    piece, count = b"x" * 1_000_000, 300
    player.on("POST", "/files", reply(200, [WRITTEN]))
    player.on("GET", "/files", Answer(200, (piece,) * count))
    sandbox = await done(colour.create(**player.options))
    player.sink = True
    tracemalloc.start()
    try:
        await done(sandbox.files.write("x", pieces(colour, *(piece,) * count), gzip=False))
        reader = await done(sandbox.files.read("x", "stream"))
        total = 0
        if colour is Sandbox:
            for part in reader:
                total += len(part)
        else:
            async for part in reader:
                total += len(part)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        player.sink = False
    assert (player.sunk, total) == (count * len(piece), count * len(piece))
    assert peak < 30_000_000, peak  # the server in this process has its share of it


# --- the rest --------------------------------------------------------------------------------------------------------


async def test_list(sandbox: Any, player: Player, done: Done) -> None:
    link = ENTRY | {"name": "l", "path": "/home/user/l", "symlinkTarget": "/etc", "type": "FILE_TYPE_DIRECTORY"}
    entries = [ENTRY, link, ENTRY | {"type": "FILE_TYPE_UNSPECIFIED"}, {"name": "s", "path": "/s"}]
    entries[3] = {**ENTRY, "isSymlink": True, "metadata": {"a": "b"}}
    player.on("POST", PATH + "ListDir", reply(200, {"entries": entries}), reply(200, {}))
    found = await done(sandbox.files.list("~", depth=3, user="root"))
    assert found[0] == INFO
    assert [(one.type, one.symlink_target, one.metadata) for one in found] == [
        (FileType.FILE, None, None),
        (FileType.DIR, "/etc", None),
        (FileType.SYMLINK, None, {"a": "b"}),
    ]
    asked = player.seen[-1]
    assert asked.json == {"path": "~", "depth": 3}
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["authorization"] == "Basic cm9vdDo="
    assert await done(sandbox.files.list("x")) == []
    assert player.seen[-1].json == {"path": "x", "depth": 1}


async def test_info_and_moves(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", PATH + "Stat", reply(200, {"entry": ENTRY}))
    player.on("POST", PATH + "Move", reply(200, {"entry": ENTRY}))
    player.on("POST", PATH + "Remove", reply(200, {}))
    player.on("POST", PATH + "MakeDir", reply(200, {"entry": ENTRY}))
    assert await done(sandbox.files.get_info("a.txt")) == INFO
    assert await done(sandbox.files.exists("a.txt", request_timeout=2.5)) is True
    assert player.seen[-1].json == {"path": "a.txt"}
    assert player.seen[-1].headers["connect-timeout-ms"] == "2500"
    assert await done(sandbox.files.rename("a", "b")) == INFO
    assert player.seen[-1].json == {"source": "a", "destination": "b"}
    assert await done(sandbox.files.remove("a")) is None
    assert await done(sandbox.files.make_dir("a/b")) is True
    player.on("POST", PATH + "MakeDir", rpc_error(409, "already_exists", "directory already exists: /a"))
    assert await done(sandbox.files.make_dir("a/b")) is False
    player.on("POST", PATH + "MakeDir", rpc_error(400, "invalid_argument", "is a file"))
    with pytest.raises(raybox.InvalidArgumentException, match="is a file"):
        await done(sandbox.files.make_dir("a/b"))
    player.on("POST", PATH + "MakeDir", reply(409, {"code": 409, "message": "still transitioning"}))
    with pytest.raises(raybox.SandboxException, match="transitioning"):
        await done(sandbox.files.make_dir("a/b"))
    player.on("POST", PATH + "Stat", rpc_error(404, "not_found", "no such file"))
    assert await done(sandbox.files.exists("a.txt")) is False
    with pytest.raises(raybox.FileNotFoundException, match="no such file"):
        await done(sandbox.files.get_info("a.txt"))
    player.on("POST", PATH + "Stat", GONE)
    with pytest.raises(raybox.SandboxNotRunningException):
        await done(sandbox.files.exists("a.txt"))


@pytest.mark.parametrize(
    "body", [{}, {"entry": 5}, {"entry": {}}, {"entry": ENTRY | {"modifiedTime": "?"}}, [], b"", b"<html>"]
)
async def test_answers_that_cannot_be_used(sandbox: Any, player: Player, done: Done, body: object) -> None:
    player.on("POST", PATH + "Stat", reply(200, body))
    with pytest.raises(raybox.SandboxException, match="cannot be used"):
        await done(sandbox.files.get_info("x"))


# --- watching --------------------------------------------------------------------------------------------------------

EVENTS: list[dict[str, Any]] = [
    {"name": "a", "type": "EVENT_TYPE_CREATE", "entry": ENTRY},
    {"name": "a", "type": "EVENT_TYPE_WRITE"},
    {"name": "sub/b", "type": 3},
    {"name": "c", "type": "EVENT_TYPE_OF_TOMORROW"},
]
HAPPENED = [
    FilesystemEvent("a", FilesystemEventType.CREATE, INFO),
    FilesystemEvent("a", FilesystemEventType.WRITE),
    FilesystemEvent("sub/b", FilesystemEventType.REMOVE),
]


async def test_watching_by_asking(player: Player) -> None:
    player.on("POST", PATH + "CreateWatcher", reply(200, {"watcherId": "w1"}))
    player.on("POST", PATH + "GetWatcherEvents", reply(200, {"events": EVENTS}), reply(200, {}))
    player.on("POST", PATH + "RemoveWatcher", reply(200, {}))
    sandbox = Sandbox.create(**player.options)
    handle = sandbox.files.watch_dir("/d", user="root", recursive=True, include_entry=True, allow_network_mounts=True)
    assert player.seen[-1].json == {
        "path": "/d",
        "recursive": True,
        "includeEntry": True,
        "allowNetworkMounts": True,
    }
    assert handle.get_new_events() == HAPPENED
    assert player.seen[-1].json == {"watcherId": "w1"}
    assert player.seen[-1].headers["authorization"] == "Basic cm9vdDo="
    assert handle.get_new_events() == []
    handle.stop()
    player.on("POST", PATH + "GetWatcherEvents", rpc_error(404, "not_found", "watcher with id w1 not found"))
    with pytest.raises(raybox.NotFoundException):
        handle.get_new_events()
    player.on("POST", PATH + "CreateWatcher", rpc_error(404, "not_found", "path '/d' not found"))
    with pytest.raises(raybox.FileNotFoundException):
        sandbox.files.watch_dir("/d")


async def test_watching_as_it_happens(player: Player) -> None:
    steps = ({"filesystem": one} for one in EVENTS)
    player.on("POST", PATH + "WatchDir", messages({"start": {}}, *steps, {"keepalive": {}}, HANG))
    sandbox = await AsyncSandbox.create(**player.options)
    heard: asyncio.Queue[FilesystemEvent] = asyncio.Queue()
    ends: list[Exception | None] = []
    handle = await sandbox.files.watch_dir("/d", on_event=heard.put, on_exit=ends.append, timeout=5)
    async with asyncio.timeout(10):
        assert [await heard.get() for _ in HAPPENED] == HAPPENED
    asked = player.seen[-1]
    assert asked.headers["connect-timeout-ms"] == "5000"
    assert asked.headers["keepalive-ping-interval"] == "50"
    await handle.stop()
    await handle.stop()
    assert ends == [None]
    assert await asyncio.to_thread(player.client_left.wait, 10)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (ended(), type(None)),
        (ended({"code": "deadline_exceeded", "message": "m"}), raybox.TimeoutException),
        (ABORT, raybox.SandboxNotRunningException),
        (b"\x07\0\0\0\0", raybox.SandboxException),
    ],
)
async def test_ends_of_a_watch(player: Player, last: object, expected: type) -> None:
    player.on("POST", PATH + "WatchDir", messages({"start": {}}, last))
    player.on("GET", "/health", GONE)
    sandbox = await AsyncSandbox.create(**player.options)
    ends: asyncio.Queue[Exception | None] = asyncio.Queue()
    await sandbox.files.watch_dir("/d", on_event=print, on_exit=ends.put)
    async with asyncio.timeout(10):
        assert type(await ends.get()) is expected


async def test_a_watch_that_does_not_begin(player: Player) -> None:
    sandbox = await AsyncSandbox.create(**player.options)
    player.on("POST", PATH + "WatchDir", messages(ended({"code": "not_found", "message": "path '/d' not found"})))
    with pytest.raises(raybox.FileNotFoundException):
        await sandbox.files.watch_dir("/d", on_event=print)
    player.on("POST", PATH + "WatchDir", messages(ended()))
    with pytest.raises(raybox.SandboxException, match="start of a watch"):
        await sandbox.files.watch_dir("/d", on_event=print)


async def test_what_on_event_raises_goes_to_on_exit(player: Player) -> None:
    player.on("POST", PATH + "WatchDir", messages({"start": {}}, {"filesystem": EVENTS[1]}, HANG))
    sandbox = await AsyncSandbox.create(**player.options)
    ends: asyncio.Queue[Exception | None] = asyncio.Queue()

    def fail(_: FilesystemEvent) -> None:
        raise LookupError

    await sandbox.files.watch_dir("/d", on_event=fail, on_exit=ends.put)
    async with asyncio.timeout(10):
        assert isinstance(await ends.get(), LookupError)
    assert await asyncio.to_thread(player.client_left.wait, 10)


# --- around it -------------------------------------------------------------------------------------------------------


async def test_metrics_and_network(colour: Any, sandbox: Any, player: Player, done: Done) -> None:
    sample = {
        "timestamp": "2025-01-02T03:04:05Z",
        "timestampUnix": 1735787045,
        "cpuCount": 2,
        "cpuUsedPct": 12.5,
        "memUsed": 1,
        "memTotal": 2,
        "memCache": 3,
        "diskUsed": 4,
        "diskTotal": 5,
    }
    base = f"/sandboxes/{SANDBOX_ID}"
    player.on("GET", f"{base}/metrics", reply(200, [sample]))
    player.on("PUT", f"{base}/network", reply(204))
    moment = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    expected = [raybox.SandboxMetrics(2, 12.5, 5, 4, 2, 1, 3, moment)]
    assert await done(sandbox.get_metrics()) == expected
    assert player.seen[-1].query == ""
    assert await done(colour.get_metrics(SANDBOX_ID, start=moment, end=moment, **player.options)) == expected
    assert player.seen[-1].query == "start=1735787045&end=1735787045"
    network = {"allow_out": lambda context: [context.all_traffic], "deny_out": [], "allow_internet_access": False}
    await done(sandbox.update_network(network))
    assert player.seen[-1].json == {"allowOut": ["0.0.0.0/0"], "denyOut": [], "allow_internet_access": False}
    await done(colour.update_network(SANDBOX_ID, {}, **player.options))
    assert player.seen[-1].json == {}
    with pytest.raises(raybox.InvalidArgumentException, match="https_ports"):
        await done(sandbox.update_network({"https_ports": [1]}))
    player.on("GET", f"{base}/metrics", reply(200, [{}]))
    with pytest.raises(raybox.SandboxException, match="cannot be used"):
        await done(sandbox.get_metrics())


async def test_signed_urls_are_those_of_the_e2b_sdk(colour: Any, player: Player, done: Done) -> None:
    import importlib

    import e2b
    from packaging.version import Version

    official = importlib.import_module("e2b_code_interpreter").Sandbox(
        sandbox_id=SANDBOX_ID,
        sandbox_domain=None,
        envd_version=Version("0.6.13"),
        envd_access_token="envd-token",
        traffic_access_token=None,
        connection_config=e2b.ConnectionConfig(api_key="e2b_00", sandbox_url=player.url),
    )
    sandbox = await done(colour.create(**player.options))
    for arguments in [("a b/ü+&",), ("", "root"), ("/x", None)]:
        assert sandbox.download_url(*arguments) == official.download_url(*arguments)
        assert sandbox.upload_url(*arguments) == official.upload_url(*arguments)
    expiring = sandbox.download_url("x", use_signature_expiration=100)
    assert "&signature_expiration=" in expiring
    player.on("POST", "/v2/sandboxes", reply(201, {name: CREATED[name] for name in CREATED if "Token" not in name}))
    bare = await done(colour.create(**player.options))
    assert bare.download_url("x") == f"{player.url}/files?path=x"
    with pytest.raises(raybox.InvalidArgumentException, match="expire"):
        bare.download_url("x", use_signature_expiration=100)
