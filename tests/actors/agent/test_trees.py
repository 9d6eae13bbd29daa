"""Removing and moving inside real walls."""

from __future__ import annotations

import pytest

from tests.actors.agent.driving import Sandbox, until
from tests.actors.agent.test_files import failing

pytestmark = pytest.mark.anyio


async def test_removing(sandbox: Sandbox) -> None:
    agent = sandbox.agent
    await sandbox.sh(
        "mkdir -p a/b/c other; touch a/1 a/b/2 other/kept; ln -s ../other a/link; mkdir a/locked; chmod 0 a/locked"
    )
    await agent.remove("a", "user")
    await agent.remove("a", "user")
    await agent.remove("a/b/c", "user")
    await agent.remove("other/kept/x", "user")
    assert [entry.path for entry in await agent.list_dir("", 9, "user")] == [
        "/home/user/other",
        "/home/user/other/kept",
    ]
    await sandbox.sh("ln -s other link")
    await agent.remove("link", "user")
    assert await sandbox.sh("ls; ls other") == "other\nkept"
    assert (await failing(agent.remove("/", "user")))[0] == "invalid_argument"
    assert (await failing(agent.remove("/etc/passwd", "user")))[0] == "permission_denied"
    await sandbox.sh("mkdir -p /tmp/d; touch /tmp/d/x", user="root")
    assert (await failing(agent.remove("/tmp/d", "user")))[0] == "permission_denied"
    assert await sandbox.sh("ls /tmp/d") == "x"
    await agent.remove("/tmp/d", "root")


async def test_removing_many_and_deep(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir many; cd many; seq 1 3000 | xargs touch; cd ..; mkdir -p $(printf 'd/%.0s' $(seq 600))")
    await sandbox.agent.remove("many", "user")
    await sandbox.agent.remove("d", "user")
    assert await sandbox.sh("ls") == ""


async def test_removing_what_somebody_fills(sandbox: Sandbox) -> None:
    await sandbox.sh(
        "mkdir d; (for i in $(seq 400); do mkdir -p d/$i/x 2>/dev/null; done; touch done) >/dev/null 2>&1 &"
    )

    async def done() -> bool:
        await sandbox.agent.remove("d", "user")
        return bool(await sandbox.sh("ls done 2>/dev/null || true"))

    await until(done)
    await sandbox.agent.remove("d", "user")
    assert await sandbox.sh("ls") == "done"


async def test_moving(sandbox: Sandbox) -> None:
    agent = sandbox.agent
    await sandbox.write("a", b"1")
    moved = await agent.move("a", "x/y/b", "user")
    assert (moved.path, moved.file_type, moved.size_bytes) == ("/home/user/x/y/b", "file", 1)
    assert (await failing(agent.move("a", "c", "user"))) == ("not_found", "path '/home/user/a' does not exist")
    await sandbox.write("c", b"22")
    await agent.move("c", "x/y/b", "user")
    assert await sandbox.read("x/y/b") == b"22"
    assert (await failing(agent.move("x", "x/y/z", "user")))[0] == "invalid_argument"
    assert (await failing(agent.move("/", "z", "user")))[0] == "invalid_argument"
    assert (await failing(agent.move("/etc/passwd", "z", "user")))[0] == "permission_denied"
    await sandbox.sh("mkdir -p full/x")
    assert (await failing(agent.move("x", "full", "user")))[0] == "failed_precondition"


async def test_moving_to_another_file_system(sandbox: Sandbox) -> None:
    await sandbox.write("tree/sub/file", bytes(3_000_000), metadata={"a": "b"})
    await sandbox.sh("cd tree; ln -s sub/file link; chmod 750 sub; chmod 4711 sub/file; touch -d @1000000000 sub/file")
    moved = await sandbox.agent.move("tree", "/dev/shm/new/tree", "user")
    assert (moved.path, moved.file_type, moved.owner) == ("/dev/shm/new/tree", "directory", "user")
    file = await sandbox.agent.stat("/dev/shm/new/tree/sub/file", "user")
    assert (file.size_bytes, file.permissions, file.modified_at_s) == (3_000_000, "urwx--x--x", 1e9)
    assert file.metadata == {"a": "b"}
    assert await sandbox.sh(
        "stat -c %a /dev/shm/new/tree/sub; readlink /dev/shm/new/tree/link; ls -A . /dev/shm/new"
    ) == ("750\nsub/file\n.:\n\n/dev/shm/new:\ntree")


async def test_what_does_not_fit_stays_where_it_was(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir d; head -c 300000000 /dev/zero > d/big; touch d/small")
    assert (await failing(sandbox.agent.move("d", "/dev/shm/d", "user")))[0] == "no_space"
    assert await sandbox.sh("ls d; ls -A /dev/shm") == "big\nsmall"
    await sandbox.sh("rm d/big; mkfifo d/pipe")
    assert (await failing(sandbox.agent.move("d", "/dev/shm/d", "user")))[0] == "failed_precondition"
    assert await sandbox.sh("ls d; ls -A /dev/shm") == "pipe\nsmall"
