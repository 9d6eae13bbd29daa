"""Files inside real walls (contract 4.3, 4.6)."""

from __future__ import annotations

import pytest

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import EntryInfo
from tests.actors.agent.driving import Sandbox

pytestmark = pytest.mark.anyio


async def failing(call: object) -> tuple[str, str]:
    """Code and message of the error."""
    with pytest.raises(AgentError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 1000, 256 * 1024, 256 * 1024 + 1, 3_000_000])
async def test_what_is_written_is_read(sandbox: Sandbox, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    await sandbox.write("file", data[:size])
    assert await sandbox.read("/home/user/file") == data[:size]
    entry = await sandbox.agent.stat("~/file", "user")
    assert entry.modified_at_s > 1e9
    assert entry == EntryInfo(
        "file", "/home/user/file", "file", size, 0o644, "-rw-r--r--", "user", "user", entry.modified_at_s
    )


async def test_parts_of_a_file(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"0123456789")
    assert await sandbox.read("file", offset=3) == b"3456789"
    assert await sandbox.read("file", offset=3, length=4) == b"3456"
    assert await sandbox.read("file", length=0) == b""
    assert await sandbox.read("file", offset=100) == b""


async def test_writing_makes_folders_and_truncates(sandbox: Sandbox) -> None:
    await sandbox.write("a/b/c", b"long words")
    await sandbox.write("a/b/c", b"short")
    assert await sandbox.read("a/b/c") == b"short"
    folder = await sandbox.agent.stat("a/b", "user")
    assert (folder.file_type, folder.mode, folder.permissions, folder.owner) == (
        "directory", 0o755, "drwxr-xr-x", "user",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "user", "meant"),
    [
        ("", "user", "/home/user"), (".", "user", "/home/user"), ("~", "user", "/home/user"), ("~", "root", "/root"),
        ("/", "user", "/"), ("//", "user", "/"), ("/home/../home//user/.", "user", "/home/user"),
        ("../..", "user", "/"), ("../../../..", "user", "/"),
    ],
)  # fmt: skip
async def test_what_paths_mean(sandbox: Sandbox, path: str, user: str, meant: str) -> None:
    entry = await sandbox.agent.stat(path, user)
    assert (entry.path, entry.name) == (meant, meant.rpartition("/")[2] or "/")


async def test_files_of_proc_are_read_to_their_end(sandbox: Sandbox) -> None:
    async with sandbox.agent.open_read("/proc/self/status", "user") as reader:
        assert reader.entry.size_bytes == 0
        assert b"Name:" in b"".join([piece async for piece in reader])


async def test_links(sandbox: Sandbox) -> None:
    await sandbox.write("real/file", b"12345")
    await sandbox.sh(
        "ln -s real/file link; ln -s nowhere broken; ln -s real folder; ln -s loop loop; chmod 600 real/file"
    )
    link = await sandbox.agent.stat("link", "user")
    assert (link.name, link.path, link.size_bytes, link.permissions) == ("link", "/home/user/link", 9, "Lrwxrwxrwx")
    assert (link.file_type, link.mode, link.symlink_target) == ("file", 0o600, "/home/user/real/file")
    broken = await sandbox.agent.stat("broken", "user")
    assert (broken.file_type, broken.symlink_target) == ("unspecified", "/home/user/broken")
    loop = await sandbox.agent.stat("loop", "user")
    assert (loop.file_type, loop.symlink_target) == ("unspecified", "/home/user/loop")
    assert (await sandbox.agent.stat("folder", "user")).file_type == "directory"
    async with sandbox.agent.open_read("link", "user") as reader:
        assert reader.entry.size_bytes == 5
    await sandbox.write("link", b"through")
    assert await sandbox.read("real/file") == b"through"
    await sandbox.write("broken", b"made")
    assert await sandbox.read("nowhere") == b"made"


async def test_a_walk_comes_in_order_and_does_not_follow_links(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir -p d/b/deep d/a; touch d/B d/a/1 d/b/2 d/b/deep/3 d/é; ln -s b d/c; mkfifo d/pipe")
    paths = [entry.path for entry in await sandbox.agent.list_dir("d", 2, "user")]
    names = ["B", "a", "a/1", "b", "b/2", "b/deep", "c", "pipe", "é"]
    assert paths == [f"/home/user/d/{name}" for name in names]
    assert [entry.name for entry in await sandbox.agent.list_dir("d", 0, "user")] == ["B", "a", "b", "c", "pipe", "é"]
    assert "/home/user/d/b/deep/3" in [entry.path for entry in await sandbox.agent.list_dir("d", 9, "user")]
    assert [entry.path for entry in await sandbox.agent.list_dir("d/c", 1, "user")] == [
        "/home/user/d/c/2", "/home/user/d/c/deep",
    ]  # fmt: skip


async def test_a_long_list_comes_whole(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir d; cd d; seq -w 1 2500 | xargs touch")
    entries = await sandbox.agent.list_dir("d", 1, "user")
    assert [entry.name for entry in entries] == [f"{number:04}" for number in range(1, 2501)]


async def test_folders_are_made(sandbox: Sandbox) -> None:
    made = await sandbox.agent.make_dir("a/b", "user")
    assert (made.path, made.mode, made.owner, made.file_type) == ("/home/user/a/b", 0o755, "user", "directory")
    await sandbox.write("file", b"")
    assert await failing(sandbox.agent.make_dir("a/b", "user")) == (
        "already_exists", "directory already exists: /home/user/a/b",
    )  # fmt: skip
    assert (await failing(sandbox.agent.make_dir("file", "user")))[0] == "invalid_argument"
    assert (await failing(sandbox.agent.make_dir("file/x", "user")))[0] == "invalid_argument"
    assert (await failing(sandbox.agent.make_dir("/", "user")))[0] == "already_exists"


async def test_errors_of_files(sandbox: Sandbox) -> None:
    agent = sandbox.agent
    missing = ("not_found", "path '/home/user/none' does not exist")
    assert await failing(agent.stat("none", "user")) == missing
    assert await failing(agent.list_dir("none", 1, "user")) == missing
    assert await failing(sandbox.read("none")) == missing
    folder = ("is_directory", "path '/home/user' is a directory")
    assert await failing(sandbox.read("")) == folder
    assert await failing(sandbox.write("", b"")) == folder
    assert await failing(agent.stat("", "who")) == ("unauthenticated", "invalid username: 'who'")
    assert (await failing(agent.stat("a\0b", "user")))[0] == "invalid_argument"
    assert (await failing(agent.stat("a" * 5000, "user")))[0] == "invalid_argument"
    assert (await failing(agent.stat("a" * 300, "user")))[0] == "invalid_argument"
    await sandbox.write("file", b"")
    assert await failing(agent.list_dir("file", 1, "user")) == (
        "invalid_argument", "path '/home/user/file' is not a directory",
    )  # fmt: skip
    await sandbox.sh("mkfifo pipe")
    for path in ("pipe", "/dev/zero"):
        assert (await failing(sandbox.read(path)))[0] == "invalid_argument"
        assert (await failing(sandbox.write(path, b"")))[0] == "invalid_argument"


async def test_rights_are_the_users(sandbox: Sandbox) -> None:
    await sandbox.write("/tmp/secret", b"root's", user="root")
    await sandbox.sh("chmod 600 /tmp/secret; mkdir -m 700 /tmp/closed; touch /tmp/closed/x", user="root")
    for path in ("/tmp/secret", "/tmp/closed/x"):
        assert (await failing(sandbox.read(path)))[0] == "permission_denied"
        assert (await failing(sandbox.write(path, b"")))[0] == "permission_denied"
    assert (await failing(sandbox.agent.stat("/tmp/closed/x", "user")))[0] == "permission_denied"
    assert (await failing(sandbox.agent.list_dir("/tmp/closed", 1, "user")))[0] == "permission_denied"
    assert (await failing(sandbox.agent.make_dir("/etc/x", "user")))[0] == "permission_denied"
    assert await sandbox.read("/tmp/secret", user="root") == b"root's"
    await sandbox.write("/home/user/mine", b"", user="root")
    assert (await sandbox.agent.stat("mine", "user")).owner == "root"


async def test_metadata_is_replaced_by_every_writing(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"", metadata={"Author": "me", "purpose": "a test"})
    assert (await sandbox.agent.stat("file", "user")).metadata == {"author": "me", "purpose": "a test"}
    assert await sandbox.sh("python -c \"import os; print(os.getxattr('file', 'user.e2b.author').decode())\"") == "me"
    (listed,) = await sandbox.agent.list_dir(".", 1, "user")
    assert listed.metadata == {"author": "me", "purpose": "a test"}
    await sandbox.write("file", b"", metadata={"author": "you"})
    assert (await sandbox.agent.stat("file", "user")).metadata == {"author": "you"}
    await sandbox.write("file", b"")
    assert (await sandbox.agent.stat("file", "user")).metadata == {}


@pytest.mark.parametrize("metadata", [{"": "x"}, {"a" * 247: "x"}, {"a": "x" * 4096}, {"a": "é"}, {"a": "\n"}])
async def test_metadata_has_bounds(sandbox: Sandbox, metadata: dict[str, str]) -> None:
    assert (await failing(sandbox.write("file", b"", metadata=metadata)))[0] == "invalid_argument"


async def test_a_full_disk_says_so_while_it_is_written(sandbox: Sandbox) -> None:
    async def fill() -> None:
        async with sandbox.agent.open_write("/dev/shm/full", "user") as writer:
            for _ in range(400):
                await writer.write(bytes(1 << 20))
            await writer.commit()

    code, message = await failing(fill())
    assert code == "no_space"
    assert "no space left" in message
    await sandbox.sh("rm /dev/shm/full")


async def test_what_was_not_committed_is_kept_as_far_as_it_came(sandbox: Sandbox) -> None:
    async with sandbox.agent.open_write("file", "user") as writer:
        await writer.write(b"half")
    assert b"half".startswith(await sandbox.read("file"))
