"""What is inside the walls, what is not, and that nothing is left of them. One claim, one test."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from raybox_actors.errors import InternalError
from raybox_actors.isolation.leaks import standing_pid_namespaces
from raybox_actors.isolation.policy import FIRST_HOST_ID, FOLDERS, IDS_PER_SANDBOX, WallsPolicy
from raybox_actors.isolation.walls import build_walls, bwrap_arguments
from raybox_actors.session import SessionOptions
from raybox_actors.zygote_process import ZygoteProcess
from raybox_template.store import BuiltTemplate
from tests.actors.driving import Driver, children_of, eventually, inside, namespace_of, open_descriptors, state_of
from tests.support.wait import wait_until

OpenSession = Callable[..., Awaitable[Driver]]
pytestmark = pytest.mark.anyio


@pytest.fixture
async def driver(session: OpenSession) -> Driver:
    return await session()


async def value(driver: Driver, code: str) -> object:
    cell = await driver.run(code)
    assert cell.result is not None, cell.events
    try:
        return ast.literal_eval(cell.result)
    except (SyntaxError, ValueError):  # a string, which comes without its quotes
        return cell.result


async def test_the_root_holds_system_folders_and_the_template_only(driver: Driver, template: BuiltTemplate) -> None:
    known = {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "usr", ".layers"}
    known |= {Path(path).parts[1] for path, _, _ in FOLDERS} | {prefix.parts[1] for prefix in template.prefixes}
    assert set(await value(driver, "import os; sorted(os.listdir('/'))")) <= known  # type: ignore[call-overload]
    for folder in ("/home", "/run", "/var", "/tmp", "/opt", "/mnt"):
        seen = set(await value(driver, f"sorted(os.listdir({folder!r}))"))  # type: ignore[call-overload]
        allowed = {Path(path).name for path, _, _ in FOLDERS if str(Path(path).parent) == folder}
        allowed |= {part for prefix in template.prefixes for part in prefix.parts} | {"raybox-sudo.sock"}
        assert seen <= allowed, folder


async def test_files_of_the_host_are_not_there(driver: Driver, tmp_path: Path, run_folder: Path) -> None:
    (tmp_path / "secret").write_text("s")
    paths = [str(tmp_path / "secret"), str(run_folder), __file__, "/etc/shadow", "/etc/hostname.host", "/tmp/ray"]
    paths += ["/sys", "/boot", "/run/raybox", "/var/run/docker.sock"]
    assert await value(driver, f"import os; [os.path.exists(path) for path in {paths!r}]") == [False] * len(paths)


async def test_nothing_of_ray_and_of_the_host_s_environment_is_seen(
    driver: Driver, session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "secret")
    other = await session()
    code = "import os, glob; [list(os.environ), [open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/environ') "
    code += "if os.access(p, os.R_OK)]]"
    for one in (driver, other):
        seen = await value(one, code)
        assert isinstance(seen, list)
        names, environments = seen
        assert not [name for name in names if "RAY" in name or "TOKEN" in name]
        assert not [text for text in environments if b"RAY" in text]
    cell = await driver.run("import ray")
    assert cell.error is not None
    assert cell.error[0] == "ModuleNotFoundError"


async def test_our_modules_cannot_be_imported(driver: Driver) -> None:
    for name in ("zygote", "wire", "walls", "raybox_actors"):
        cell = await driver.run(f"import {name}")
        assert cell.error is not None, name
        assert cell.error[0] == "ModuleNotFoundError"


async def test_the_only_network_is_an_own_loopback(driver: Driver) -> None:
    assert await value(driver, "import socket; [name for _, name in socket.if_nameindex()]") == ["lo"]
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    code = """
import errno, socket
def reach(host, port):
    with socket.socket() as one:
        one.settimeout(2)
        return errno.errorcode[one.connect_ex((host, port))]
"""
    await driver.run(code)
    assert await value(driver, f"reach('127.0.0.1', {port})") == "ECONNREFUSED"
    assert (
        await value(driver, "[reach(host, 80) for host in ('169.254.169.254', '10.0.0.1', '1.1.1.1')]")
        == ["ENETUNREACH"] * 3
    )
    listener.close()
    await listener.wait_closed()


async def test_abstract_sockets_of_the_host_are_out_of_reach(driver: Driver) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as host:
        host.bind(f"\0raybox-test-{os.getpid()}")
        host.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0raybox-test-{os.getpid()}')"
        cell = await driver.run(code)
    assert cell.error is not None
    assert cell.error[0] == "ConnectionRefusedError"


async def test_user_code_has_no_privileges(driver: Driver) -> None:
    code = "dict(l.split(':\\t', 1) for l in open('/proc/self/status').read().splitlines() if ':\\t' in l)"
    status = await value(driver, code)
    assert isinstance(status, dict)
    assert status["Uid"].split() == status["Gid"].split() == ["1000"] * 4
    assert status["Groups"].split() == []
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    cell = await driver.run("import os; os.setuid(0)")
    assert cell.error is not None
    assert cell.error[0] == "PermissionError"


async def test_no_descriptor_of_ours_is_inherited(driver: Driver) -> None:
    await driver.run("import os\nfolder = os.open('/proc/self/fd', os.O_RDONLY)")
    links = await value(
        driver, "[os.readlink(n, dir_fd=folder) for n in os.listdir('/proc/self/fd') if int(n) < folder]"
    )
    assert isinstance(links, list)
    kinds = ("/dev/null", "pipe:", "socket:", "anon_inode:")
    assert not [link for link in links if not link.startswith((*kinds, "/proc/"))]


async def test_names_are_the_sandbox_s_own(driver: Driver) -> None:
    assert await value(driver, "import os, pwd, socket; [socket.gethostname(), pwd.getpwuid(os.getuid()).pw_name]") == [
        "sandbox",
        "user",
    ]
    assert await value(driver, "os.path.expanduser('~')") == "/home/user"


@pytest.mark.parametrize("folder", ["/tmp", "/home/user", "/var/tmp", "/dev/shm"])
async def test_writable_folders_have_their_size(
    session: OpenSession, base_options: SessionOptions, folder: str
) -> None:
    from dataclasses import replace

    limits = replace(base_options.policy.limits, disk_mib=8, shm_mib=8)
    driver = await session(policy=replace(base_options.policy, limits=limits))
    assert await value(driver, f"open('{folder}/f', 'wb').write(bytes(7 << 20))") == 7 << 20
    cell = await driver.run(f"open('{folder}/g', 'wb').write(bytes(2 << 20))")
    assert cell.error is not None
    assert "No space left" in cell.error[1]


async def test_a_user_may_write_where_a_user_may(driver: Driver, template: BuiltTemplate) -> None:
    for folder in ("/", "/usr", "/etc", "/opt", "/run", "/home", "/root", "/proc/1", *map(str, template.prefixes)):
        cell = await driver.run(f"open('{folder}/x', 'w')")
        assert cell.error is not None, folder
        assert cell.error[0] in ("OSError", "PermissionError", "FileNotFoundError"), folder


async def test_nothing_is_shared_between_sandboxes(session: OpenSession) -> None:
    one, two = await session(), await session()
    for folder in ("/tmp", "/dev/shm", "/home/user"):
        await one.run(f"open('{folder}/mine', 'w').close()")
        assert await value(two, f"import os; os.path.exists('{folder}/mine')") is False
    assert await value(two, "sorted(int(n) for n in os.listdir('/proc') if n.isdigit())[0]") == 1
    assert len(await value(two, "[n for n in os.listdir('/proc') if n.isdigit()]")) == 2  # type: ignore[arg-type]


async def test_host_ids_differ_by_slot(session: OpenSession, zygote: ZygoteProcess) -> None:
    seen = set()
    for _ in range(2):
        before = children_of(zygote.pid)
        driver = await session()
        (pid,) = children_of(zygote.pid) - before
        uid = Path(f"/proc/{pid}").stat().st_uid
        slot = driver.session.options.slot
        assert uid == FIRST_HOST_ID + slot * IDS_PER_SANDBOX + 1000
        seen.add(uid)
    assert len(seen) == 2


async def test_pid_1_cannot_be_killed_or_read_from_inside(driver: Driver) -> None:
    for code in ("import os; os.kill(1, 9)", "open('/proc/1/environ').read()", "os.listdir('/proc/1/fd')"):
        cell = await driver.run(code)
        assert cell.error is not None, code
        assert cell.error[0] == "PermissionError"


async def test_orphans_inside_are_reaped(driver: Driver) -> None:
    pid = await value(driver, "import subprocess as s; int(s.check_output('(sleep 0.01 & echo $!)', shell=True))")
    code = f"import os, time\nwhile os.path.exists('/proc/{pid}'): time.sleep(0.01)\n'gone'"
    assert (await driver.run(code, timeout_s=5)).result == "gone"


async def test_walls_that_stand_are_known_by_their_pid_namespace(driver: Driver) -> None:
    """Or the sweep of what dead sandboxes left would end what lives in them."""
    namespace = namespace_of(driver.session._walls.first_pid)
    assert inside(namespace)
    assert namespace in standing_pid_namespaces()
    await driver.session.close()
    assert namespace not in standing_pid_namespaces()


async def test_daemons_do_not_survive_the_end(session: OpenSession) -> None:
    driver = await session()
    namespace = namespace_of(driver.session._walls.first_pid)
    await driver.run("import subprocess\nfor _ in range(5): subprocess.Popen(['setsid', 'sleep', '1000'])")
    await eventually(lambda: len(inside(namespace)) == 7)
    await driver.session.close()
    assert inside(namespace) == set()


def test_walls_that_cannot_be_built_say_why_and_leave_nothing(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(InternalError, match="Can't find source path"):
        build_walls(bwrap_arguments(WallsPolicy(), tmp_path / "absent"))
    assert open_descriptors() == before


def test_walls_of_their_own_go_with_their_descriptors(base_options: SessionOptions) -> None:
    before = open_descriptors()
    walls = build_walls(bwrap_arguments(base_options.policy, base_options.skeleton))
    namespace, monitor = namespace_of(walls.first_pid), walls.process.pid
    assert inside(namespace)
    walls.close()
    walls.close()
    walls.kill()
    assert (inside(namespace), state_of(monitor), open_descriptors()) == (set(), "", before)


BUILDER = """
import asyncio, sys
from pathlib import Path
from raybox_actors.isolation.policy import WallsPolicy
from raybox_actors.session import SessionOptions, open_session
from raybox_actors.values import ExecuteRequest

async def main(address, python, skeleton, mark, *prefixes):
    policy = WallsPolicy(read_only=prefixes, mark=mark)
    session = await open_session(SessionOptions(9999, address, python, Path(skeleton), policy), lambda: None)
    code = "import subprocess, time; subprocess.Popen(['setsid', 'sleep', '1000']); print('up'); time.sleep(1000)"
    batch = await session.execute(ExecuteRequest("e", code))
    while b"up" not in batch.lines:
        batch = await session.poll("e", batch.first_seq + batch.count, 5)
    print(session._walls.first_pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(*sys.argv[1:]))
"""


def test_sigkill_of_who_built_the_walls_ends_all_of_it(base_options: SessionOptions, zygote: ZygoteProcess) -> None:
    arguments = [zygote.address, base_options.python, str(base_options.skeleton), base_options.policy.mark]
    command = [sys.executable, "-c", BUILDER, *arguments, *base_options.policy.read_only]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as builder:
        try:
            assert builder.stdout is not None
            first_pid = int(builder.stdout.readline())
            namespace, mounts = namespace_of(first_pid), namespace_of(first_pid, "mnt")
            assert len(inside(namespace)) == 3  # pid 1, the kernel, what it started
        finally:
            builder.send_signal(signal.SIGKILL)

    def left() -> list[str]:
        found = [f"inside {pid}" for pid in inside(namespace)]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and state_of(int(entry.name)) not in ("Z", "X", ""):
                try:
                    if (entry / "ns/mnt").stat().st_ino == mounts:
                        found.append(f"in its mounts {entry.name}")
                except OSError:
                    continue
        return found

    wait_until(lambda: not left(), 2.0, left)
