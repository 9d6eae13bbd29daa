"""Files of a real sandbox, through both clients."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.support.wait import wait_until

pytestmark = pytest.mark.pool

PIECE = bytes(range(256)) * 4096  # 1 MiB


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield PIECE


def raised(call: Callable[[], Any]) -> str:
    """Name of the error that a call raises, which is the same in both packages."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the packages have no root in common
        call()
    return type(caught.value).__name__


def test_write_and_read(sandbox: Any) -> None:
    files = sandbox.files
    info = files.write("notes/ü b.txt", "héllo\n")
    assert (info.name, info.path, info.type.value) == ("ü b.txt", "/home/user/notes/ü b.txt", "file")
    assert files.read("notes/ü b.txt") == "héllo\n"
    assert files.read("~/notes/ü b.txt") == "héllo\n"
    assert bytes(files.read("/home/user/notes/ü b.txt", format="bytes")) == "héllo\n".encode()
    files.write("notes/ü b.txt", "short")
    assert files.read("notes/ü b.txt") == "short"
    files.write("empty", b"")
    assert files.read("empty") == ""
    every_byte = bytes(range(256)) * 100
    for options in ({}, {"use_octet_stream": True}, {"gzip": True}):
        files.write("bytes", every_byte, **options)
        assert bytes(files.read("bytes", format="bytes")) == every_byte
    assert bytes(files.read("bytes", format="bytes", gzip=True)) == every_byte
    assert sandbox.run_code("open('notes/ü b.txt').read()").text == "short"
    sandbox.run_code("open('from_kernel.txt', 'w').write('kernel')")
    assert files.read("from_kernel.txt") == "kernel"


def test_write_several(sandbox: Any) -> None:
    written = sandbox.files.write_files(
        [{"path": "a/1.txt", "data": "one"}, {"path": "/tmp/ü/2.bin", "data": b"\0two"}, {"path": "3", "data": "three"}]
    )
    assert [info.path for info in written] == ["/home/user/a/1.txt", "/tmp/ü/2.bin", "/home/user/3"]
    assert sandbox.files.read("a/1.txt") == "one"
    assert bytes(sandbox.files.read("/tmp/ü/2.bin", format="bytes")) == b"\0two"
    assert sandbox.files.write_files([]) == []


def test_streams(sandbox: Any) -> None:
    expected = hashlib.sha256(PIECE * 32).hexdigest()
    sandbox.files.write("big", pieces(32))
    assert sandbox.run_code("import hashlib; hashlib.sha256(open('big', 'rb').read()).hexdigest()").text == expected
    found = hashlib.sha256()
    for piece in sandbox.files.read("big", format="stream"):
        found.update(piece)
    assert found.hexdigest() == expected
    sandbox.files.write("packed", io.BytesIO(PIECE * 3), gzip=True)
    assert sandbox.files.get_info("packed").size == 3 * len(PIECE)
    reader = sandbox.files.read("big", format="stream")
    next(reader)
    reader.close()
    assert sandbox.files.exists("big")


def test_what_is_known_of_files(sandbox: Any) -> None:
    files = sandbox.files
    files.write("f.txt", "seven b", metadata={"Author": "me"})
    info = files.get_info("f.txt")
    assert (info.name, info.path, info.type.value, info.size) == ("f.txt", "/home/user/f.txt", "file", 7)
    assert (info.mode, info.permissions) == (0o644, "-rw-r--r--")
    assert (info.owner, info.group) == ("user", "user")
    assert info.modified_time.year >= 2024
    assert info.metadata == {"author": "me"}
    files.write("f.txt", "again")
    assert not files.get_info("f.txt").metadata
    folder = files.get_info("/home/user")
    assert (folder.type.value, folder.permissions[0]) == ("dir", "d")
    sandbox.run_code("import os; os.symlink('f.txt', 'link'); os.symlink('nowhere', 'broken')")
    link = files.get_info("link")
    assert link.symlink_target == "/home/user/f.txt"
    assert link.name == "link"
    names = [entry.name for entry in files.list(".")]
    assert "link" in names
    assert "broken" not in names


def test_list_in_order_and_depth(sandbox: Any) -> None:
    sandbox.files.write_files([{"path": f"d/{name}", "data": ""} for name in ("b/c/2", "a", "b/1", "z")])

    def listed(**options: Any) -> list[str]:
        return [
            str(PurePosixPath(entry.path).relative_to("/home/user/d")) for entry in sandbox.files.list("d", **options)
        ]

    assert listed() == ["a", "b", "z"]
    assert listed(depth=2) == ["a", "b", "b/1", "b/c", "z"]
    assert listed(depth=9) == ["a", "b", "b/1", "b/c", "b/c/2", "z"]


def test_make_move_remove(sandbox: Any) -> None:
    files = sandbox.files
    assert files.make_dir("x/y") is True
    assert files.make_dir("x/y") is False
    files.write("x/y/f", "1")
    assert files.rename("x/y/f", "new/place/g").path == "/home/user/new/place/g"
    assert not files.exists("x/y/f")
    assert files.read("new/place/g") == "1"
    files.remove("x")
    files.remove("x")
    assert not files.exists("x")
    assert files.exists("new")


def test_users(sandbox: Any) -> None:
    sandbox.files.write("root.txt", "r", user="root")
    assert sandbox.files.get_info("/root/root.txt", user="root").owner == "root"
    assert not sandbox.files.exists("root.txt")
    assert raised(lambda: sandbox.files.read("x", user="nobody-of-this-name")) == "AuthenticationException"
    assert raised(lambda: sandbox.files.list("/", user="nobody-of-this-name")) == "AuthenticationException"


def test_errors(sandbox: Any) -> None:
    files = sandbox.files
    files.write("file", "1")
    assert raised(lambda: files.read("missing")) == "FileNotFoundException"
    assert raised(lambda: files.read("/home/user")) == "InvalidArgumentException"
    assert raised(lambda: files.get_info("missing")) == "FileNotFoundException"
    assert raised(lambda: files.list("missing")) == "FileNotFoundException"
    assert raised(lambda: files.list("file")) == "InvalidArgumentException"
    assert raised(lambda: files.make_dir("file")) == "InvalidArgumentException"
    assert raised(lambda: files.rename("missing", "x")) == "FileNotFoundException"
    assert raised(lambda: files.watch_dir("missing")) == "FileNotFoundException"
    assert raised(lambda: files.watch_dir("file")) == "InvalidArgumentException"
    sandbox.kill()
    assert raised(lambda: files.read("file")) == "SandboxNotRunningException"
    assert raised(lambda: files.exists("file")) == "SandboxNotRunningException"


def test_watch_by_asking(sandbox: Any) -> None:
    sandbox.files.make_dir("w")
    watcher = sandbox.files.watch_dir("w", recursive=True, include_entry=True)
    sandbox.files.write("w/a", "1")
    events = watcher.get_new_events()
    assert [(event.name, event.type.value) for event in events] == [("a", "create"), ("a", "chmod"), ("a", "write")]
    assert events[0].entry.path == "/home/user/w/a"
    assert watcher.get_new_events() == []
    sandbox.files.make_dir("w/sub")
    sandbox.files.write("w/sub/b", "2")
    sandbox.files.remove("w/a")
    seen: list[tuple[str, str]] = []

    def all_there() -> bool:
        seen.extend((event.name, event.type.value) for event in watcher.get_new_events())
        return {("sub", "create"), ("sub/b", "write"), ("a", "remove")} <= set(seen)

    wait_until(all_there, 10, lambda: seen)
    watcher.stop()
    # The E2B SDK does not ask any more; ours is told so, by a subclass.
    assert raised(watcher.get_new_events) in ("NotFoundException", "SandboxException")


def fetch(url: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": content_type} if body is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_signed_urls(sandbox: Any) -> None:
    """They carry no sandbox id and no key."""
    status, _ = fetch(
        sandbox.upload_url("signed ü.txt", use_signature_expiration=60), b"by url", "application/octet-stream"
    )
    assert status == 200
    assert sandbox.files.read("signed ü.txt") == "by url"
    url = sandbox.download_url("signed ü.txt")
    assert fetch(url) == (200, b"by url")
    assert fetch(url.replace("signed", "signee"))[0] == 401
    status, body = fetch(sandbox.download_url("signed ü.txt", use_signature_expiration=-10))
    assert (status, b"already expired" in body) == (401, True)
