"""Files of real sandboxes through the official client, and raw where the client hides what matters."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import e2b_code_interpreter
import httpx
import pytest
from e2b import FileNotFoundException, FilesystemEventType, InvalidArgumentException, NotEnoughSpaceException

from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.anyio]

BIG_BYTES = 50 * 1024 * 1024


@pytest.fixture
def client() -> Any:
    return e2b_code_interpreter.Sandbox


@pytest.fixture
def async_client() -> Any:
    return e2b_code_interpreter.AsyncSandbox


def test_a_file_comes_back_as_it_was_written(sandbox: Any) -> None:
    written = sandbox.files.write("notes/a ä.txt", "héllo\n")
    assert (written.name, written.path) == ("a ä.txt", "/home/user/notes/a ä.txt")
    assert sandbox.files.read("notes/a ä.txt") == "héllo\n"
    assert bytes(sandbox.files.read("/home/user/notes/a ä.txt", format="bytes")) == "héllo\n".encode()
    assert b"".join(sandbox.files.read("~/notes/a ä.txt", format="stream")) == "héllo\n".encode()
    sandbox.files.write("notes/a ä.txt", b"")
    assert sandbox.files.read("notes/a ä.txt") == ""
    with pytest.raises(FileNotFoundException, match="path '/home/user/nope' does not exist"):
        sandbox.files.read("nope")
    with pytest.raises(InvalidArgumentException, match="path '/home/user/notes' is a directory"):
        sandbox.files.read("notes")


def test_many_files_at_once_and_packed(sandbox: Any) -> None:
    files = [{"path": f"many/{number}.txt", "data": str(number) * 1000} for number in range(20)]
    written = sandbox.files.write_files(files)
    assert [entry.path for entry in written] == [f"/home/user/many/{number}.txt" for number in range(20)]
    assert sandbox.files.read("many/7.txt") == "7" * 1000
    sandbox.files.write("packed", "x" * 100_000, gzip=True)
    assert sandbox.files.read("packed", gzip=True) == "x" * 100_000


def test_folders_are_listed_moved_and_removed(sandbox: Any) -> None:
    assert sandbox.files.make_dir("top/sub")
    assert not sandbox.files.make_dir("top/sub")
    sandbox.files.write("top/sub/f", "1")
    sandbox.commands.run("ln -s sub/f top/link; chmod 600 top/sub/f")
    names = [(entry.name, entry.type.value) for entry in sandbox.files.list("top", depth=2)]
    assert names == [("link", "file"), ("sub", "dir"), ("f", "file")]
    info = sandbox.files.get_info("top/sub/f")
    assert (info.size, info.mode, info.permissions, info.owner) == (1, 0o600, "-rw-------", "user")
    assert sandbox.files.get_info("top/link").symlink_target == "/home/user/top/sub/f"
    assert sandbox.files.rename("top/sub/f", "elsewhere/g").path == "/home/user/elsewhere/g"
    assert not sandbox.files.exists("top/sub/f")
    assert sandbox.files.exists("elsewhere/g")
    sandbox.files.remove("elsewhere")
    sandbox.files.remove("elsewhere")
    assert not sandbox.files.exists("elsewhere/g")


def test_links_are_followed_when_read_and_written(sandbox: Any, running_pool: RunningPool) -> None:
    sandbox.files.write("target", "0123456789")
    sandbox.commands.run("ln -s target link; ln -s nowhere broken; ln -s /home/user folder")
    assert sandbox.files.read("link") == "0123456789"
    assert sandbox.files.read("folder/link") == "0123456789"
    routing = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
    }
    with httpx.Client(base_url=running_pool.url, headers=routing | {"Accept-Encoding": "identity"}) as raw:
        assert raw.get("/files?path=link").headers["content-length"] == "10"
        part = raw.get("/files?path=link", headers={"Range": "bytes=-4"})
        assert (part.status_code, part.text, part.headers["content-range"]) == (206, "6789", "bytes 6-9/10")
    sandbox.files.write("link", "changed")
    assert sandbox.files.read("target") == "changed"
    with pytest.raises(FileNotFoundException):
        sandbox.files.read("broken")


def test_users_and_metadata(sandbox: Any) -> None:
    sandbox.files.write("/root/secret", "of root", user="root")
    assert sandbox.files.read("secret", user="root") == "of root"
    assert sandbox.files.get_info("/root/secret", user="root").owner == "root"
    entry = sandbox.files.write("tagged", "x", metadata={"owner": "me"})
    assert entry.metadata == {"owner": "me"}
    assert sandbox.files.get_info("tagged").metadata == {"owner": "me"}
    sandbox.files.write("tagged", "y")
    assert not sandbox.files.get_info("tagged").metadata


def test_signed_urls_work_for_anybody_until_they_expire(sandbox: Any) -> None:
    with httpx.Client() as anybody:
        sent = anybody.post(sandbox.upload_url("signed.txt"), files={"file": ("signed.txt", b"from outside")})
        assert (sent.status_code, sent.json()[0]["path"]) == (200, "/home/user/signed.txt")
        assert anybody.get(sandbox.download_url("signed.txt")).content == b"from outside"
        soon = sandbox.download_url("signed.txt", use_signature_expiration=-10)
        answer = anybody.get(soon)
        assert (answer.status_code, answer.json()) == (
            401,
            {"code": 401, "message": "signature is already expired"},
        )
        other = sandbox.download_url("signed.txt").replace("signed.txt", "other.txt")
        assert anybody.get(other).status_code == 401


def test_files_under_proc_are_read_to_their_end(sandbox: Any) -> None:
    assert "MemTotal" in sandbox.files.read("/proc/meminfo")


def test_fifty_megabytes_up_and_down(sandbox: Any, running_pool: RunningPool) -> None:
    piece = os.urandom(1024 * 1024)
    digest = hashlib.sha256(piece * (BIG_BYTES // len(piece))).hexdigest()
    routing = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
    }

    def pieces() -> Iterator[bytes]:
        for _ in range(BIG_BYTES // len(piece)):
            yield piece

    with httpx.Client(base_url=running_pool.url, headers=routing, timeout=120) as raw:
        sent = raw.post(
            "/files", params={"path": "big"}, content=pieces(), headers={"Content-Type": "application/octet-stream"}
        )
        assert sent.status_code == 200, sent.text
        assert sandbox.commands.run("sha256sum big").stdout.split()[0] == digest
        for encoding in ("identity", "gzip"):
            got = hashlib.sha256()
            with raw.stream("GET", "/files", params={"path": "big"}, headers={"Accept-Encoding": encoding}) as answer:
                for received in answer.iter_bytes():
                    got.update(received)
            assert got.hexdigest() == digest
        part = raw.get("/files", params={"path": "big"}, headers={"Range": "bytes=1048570-1048580"})
        assert (part.status_code, part.content) == (206, (piece[-6:] + piece[:5]))
        form = {"file": ("big2", gzip.compress(b"form"))}
        assert raw.post("/files", params={"path": "small"}, files=form).status_code == 200


def test_a_full_disk_is_an_error_of_its_own(sandbox: Any) -> None:
    """/dev/shm is a small one."""
    assert sandbox.commands.run("dd if=/dev/zero of=/dev/shm/fill bs=1M count=1000 2>&1 || true").exit_code == 0
    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write("/dev/shm/more", bytes(3_000_000))
    sandbox.files.remove("/dev/shm/fill")
    assert sandbox.files.write("/dev/shm/more", bytes(3_000_000)).path == "/dev/shm/more"


def test_a_folder_is_watched_while_another_process_writes_it(sandbox: Any) -> None:
    sandbox.files.make_dir("watched")
    handle = sandbox.files.watch_dir("watched", recursive=True)
    sandbox.files.write("watched/new.txt", "x")
    kinds = [(event.name, event.type) for event in handle.get_new_events()]
    assert kinds == [
        ("new.txt", FilesystemEventType.CREATE),
        ("new.txt", FilesystemEventType.CHMOD),
        ("new.txt", FilesystemEventType.WRITE),
    ]
    sandbox.commands.run("mkdir watched/sub; echo more > watched/sub/inner; rm watched/new.txt")
    seen: list[tuple[str, FilesystemEventType]] = []

    def all_seen() -> bool:
        seen.extend((event.name, event.type) for event in handle.get_new_events())
        return ("new.txt", FilesystemEventType.REMOVE) in seen and ("sub", FilesystemEventType.CREATE) in seen

    wait_until(all_seen, 20, lambda: seen)
    handle.stop()


async def test_a_watch_streams(async_client: Any) -> None:
    sandbox = await async_client.create(timeout=120)
    try:
        seen: queue.Queue[str] = queue.Queue()
        handle = await sandbox.files.watch_dir(".", on_event=lambda event: seen.put(event.name))
        await sandbox.commands.run("echo x > made-by-a-command")
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(seen.get) == "made-by-a-command"
        await handle.stop()
        assert await sandbox.files.read("made-by-a-command") == "x\n"
    finally:
        await sandbox.kill()


def test_everything_says_502_after_the_end(create: Callable[..., Any], running_pool: RunningPool) -> None:
    sandbox = create()
    sandbox.files.write("f", "x")
    routing = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
    }
    sandbox.kill()
    with httpx.Client(base_url=running_pool.url, headers=routing, timeout=30) as raw:
        for method, path in (
            ("GET", "/health"),
            ("GET", "/envs"),
            ("GET", "/files?path=f"),
            ("POST", "/files?path=f"),
            ("POST", "/process.Process/List"),
            ("POST", "/filesystem.Filesystem/Stat"),
        ):
            kind = "application/octet-stream" if path.startswith("/files") else "application/json"
            answer = raw.request(method, path, headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["message"]) == (502, "The sandbox was not found"), path


def test_a_kill_in_the_middle_of_an_upload(create: Callable[..., Any], running_pool: RunningPool) -> None:
    sandbox = create()
    routing = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
        "Content-Type": "application/octet-stream",
    }

    def pieces() -> Iterator[bytes]:
        for number in range(200):
            yield bytes(256 * 1024)
            if number == 20:
                sandbox.kill()

    begun = time.monotonic()
    with httpx.Client(base_url=running_pool.url, headers=routing, timeout=60) as raw:
        answer = raw.post("/files", params={"path": "big"}, content=pieces())
    assert (answer.status_code, answer.json()["message"]) == (502, "The sandbox was not found")
    assert time.monotonic() - begun < 60
