"""Files: what of the host is there, who may write where, and how much. One attack, one test."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from raybox_actors.isolation.layers import layers_failure
from raybox_actors.isolation.policy import MASKED
from raybox_actors.session import SessionOptions
from tests.actors.driving import eventually
from tests.security.conftest import Attacker, OpenSession

pytestmark = pytest.mark.anyio
needs_layers = pytest.mark.skipif(bool(layers_failure()), reason="this kernel cannot stack idmapped layers")


async def test_files_of_the_host_are_not_there(attacker: Attacker, tmp_path: Path, run_folder: Path) -> None:
    """For `user` and for root: there is no path to them, whatever the rights."""
    (tmp_path / "secret").write_text("s")
    paths = [
        str(tmp_path / "secret"),
        str(run_folder),
        __file__,
        "/sys",
        "/boot",
        "/run/raybox",
        "/tmp/ray",
        "/dev/shm/x",
    ]
    paths += ["/etc/shadow", "/var/lib/docker", "/var/run/docker.sock", "/root/.ssh", "/root/.ray"]
    code = f"import os; print([os.path.exists(path) for path in {paths!r}])"
    expected = str([False] * len(paths))
    assert (await attacker.run(code)).text().strip() == expected
    assert await attacker.as_root(code) == (0, expected + "\n")


async def test_the_first_process_is_no_way_out(attacker: Attacker) -> None:
    """/proc/1/root and its descriptors would be the host's view of this sandbox."""
    code = """
import os
def attempt(action):
    try:
        return action()
    except OSError as error:
        return type(error).__name__
print([attempt(lambda: os.listdir('/proc/1/root')), attempt(lambda: os.listdir('/proc/1/fd')),
       attempt(lambda: open('/proc/1/environ').read()), attempt(lambda: open('/proc/1/mem', 'rb'))])
"""
    denied = str(["PermissionError"] * 4)
    assert (await attacker.run(code)).text().strip() == denied
    assert (await attacker.as_root(code))[1].strip() == denied


async def test_own_root_through_proc_is_the_sandbox_s(attacker: Attacker) -> None:
    code = "import os; [os.path.exists('/proc/self/root/proc/1'), os.path.exists('/proc/self/root/work')]"
    assert await attacker.value(code) == [True, False]


async def test_climbing_out_with_dots_and_links_ends_at_the_root(attacker: Attacker) -> None:
    code = "import os; os.symlink('/' + '../' * 40 + 'etc/hostname', '/tmp/l'); open('/tmp/l').read().strip()"
    assert await attacker.value(code) == "sandbox"


async def test_chroot_is_no_way_out(attacker: Attacker) -> None:
    """The classic: chroot below the working folder, then climb. The mount namespace has nothing above its root."""
    code = """
import os
os.mkdir('/tmp/c'); os.chroot('/tmp/c')
for _ in range(100): os.chdir('..')
os.chroot('.')
print(sorted(set(os.listdir('/')) & {'work', 'boot', 'sys', 'usr'}))
"""
    assert await attacker.as_root(code) == (0, "['usr']\n")


async def test_a_user_may_not_change_the_machine(attacker: Attacker) -> None:
    code = """
import os
denied = []
for path in ('/x', '/etc/passwd', '/usr/bin/x', '/opt/x', '/var/lib/x', '/root/x', '/.layers/x', '/proc/sys/kernel/x'):
    try:
        open(path, 'w')
    except OSError:
        denied.append(path)
len(denied)
"""
    assert await attacker.value(code) == 8


@needs_layers
async def test_root_changes_the_machine_but_only_its_own(
    attacker: Attacker, session: OpenSession, base_options: SessionOptions
) -> None:
    """What root writes below /usr is in the sandbox's layer: neither the host nor another sandbox sees it."""
    before = set(Path("/usr/bin").iterdir())
    code = "open('/usr/bin/planted', 'w').write('x'); open('/etc/planted', 'w'); open('/opt/planted', 'w')\n"
    code += "import os; os.remove('/usr/bin/env'); os.mkdir('/data'); print(os.path.exists('/usr/bin/env'))"
    assert await attacker.as_root(code) == (0, "False\n")
    assert await attacker.value("import os; os.path.exists('/usr/bin/planted')") is True
    assert set(Path("/usr/bin").iterdir()) == before
    assert not (base_options.skeleton / "planted").exists()
    other = Attacker(await session())
    assert await other.value("import os; [os.path.exists('/usr/bin/planted'), os.path.exists('/usr/bin/env')]") == [
        False,
        True,
    ]


@needs_layers
async def test_the_template_is_not_changed_by_its_sandbox(attacker: Attacker, base_options: SessionOptions) -> None:
    """Or every later sandbox of the node would run what this one planted."""
    prefix = base_options.policy.read_only[0]
    status, said = await attacker.as_root(f"open('{prefix}/planted.py', 'w').write('evil'); print('done')")
    assert (status, said) == (0, "done\n")
    assert not Path(prefix, "planted.py").exists()


@needs_layers
async def test_the_host_s_files_belong_to_the_sandbox_s_root(attacker: Attacker) -> None:
    code = "import os; [os.stat(p).st_uid for p in ('/', '/usr', '/usr/bin/env', '/etc/passwd', '/bin')]"
    assert await attacker.value(code) == [0] * 5


async def test_where_layers_are_missing_system_folders_are_read_only(
    session: OpenSession, base_options: SessionOptions
) -> None:
    """The fallback of older kernels: weaker comfort, not weaker walls."""
    plain = Attacker(await session(policy=replace(base_options.policy, layers=())))
    assert await plain.value("open('/tmp/f', 'w').write('x')") == 1
    status, said = await plain.as_root("open('/usr/bin/planted', 'w')")
    assert status == 1
    assert "Read-only file system" in said


async def test_set_user_id_programs_give_nothing(attacker: Attacker) -> None:
    """A copy of a shell that root marks set-user-id: no new privileges, and the mounts are nosuid."""
    await attacker.as_root("import os, shutil; shutil.copy('/bin/bash', '/opt/sh'); os.chmod('/opt/sh', 0o4755)")
    code = "import subprocess; subprocess.check_output(['/opt/sh', '-p', '-c', 'id -u'], text=True).strip()"
    assert await attacker.value(code) == 1000


async def test_device_files_are_useless(attacker: Attacker) -> None:
    """The host's disk by its number: making it needs a capability that nobody inside has."""
    status, said = await attacker.as_root(
        "import os, stat; os.mknod('/opt/disk', 0o666 | stat.S_IFBLK, os.makedev(254, 0))"
    )
    assert status == 1
    assert "Operation not permitted" in said


async def test_dev_has_harmless_devices_only(attacker: Attacker) -> None:
    code = "import os, stat; sorted(n for n in os.listdir('/dev') if stat.S_ISBLK(os.lstat('/dev/' + n).st_mode) "
    code += "or (stat.S_ISCHR(os.lstat('/dev/' + n).st_mode) and "
    code += "n not in ('null', 'zero', 'full', 'random', 'urandom', 'tty', 'console', 'ptmx')))"
    assert await attacker.value(code) == []


@pytest.mark.parametrize("path", MASKED)
async def test_what_proc_says_of_the_host_is_empty(attacker: Attacker, path: str) -> None:
    code = f"import os; print(open({path!r}).read() if os.path.exists({path!r}) else '')"
    assert (await attacker.run(code)).text().strip() == ""
    assert (await attacker.as_root(code))[1].strip() == ""


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches"],
)
async def test_the_kernel_s_switches_are_out_of_reach(attacker: Attacker, path: str) -> None:
    """A helper of the kernel's own that runs as the host's root is the oldest way out of a container."""
    code = f"open({path!r}, 'w').write('x')"
    assert await attacker.error(code)
    assert (await attacker.as_root(code))[0] == 1


async def test_the_boot_id_is_the_sandbox_s_own(session: OpenSession, base_options: SessionOptions) -> None:
    """Else two sandboxes know that they share a machine, and which one."""
    path = "/proc/sys/kernel/random/boot_id"
    one = Attacker(await session(policy=replace(base_options.policy, boot_id="b" * 36)))
    assert await one.value(f"open('{path}').read().strip()") == "b" * 36 != Path(path).read_text().strip()


async def test_one_quota_bounds_all_that_is_written(tight: Attacker) -> None:
    """Not one for each folder: a little everywhere would add up."""
    code = """
total = 0
for number in range(1000):
    folder = ('/tmp', '/home/user', '/var/tmp')[number % 3]
    try:
        with open(f'{folder}/{number}', 'wb') as file:
            total += file.write(bytes(1 << 20))
    except OSError as error:
        number = error.errno
        break
[total >> 20 <= 64, number]
"""
    assert await tight.value(code) == [True, 28]


@needs_layers
async def test_the_quota_bounds_what_root_writes_to_system_folders(tight: Attacker) -> None:
    status, said = await tight.as_root("open('/usr/lib/big', 'wb').write(bytes(100 << 20))")
    assert status != 0
    assert "No space left" in said or "File too large" in said


async def test_a_single_file_is_bounded(tight: Attacker) -> None:
    """Also one that has holes: its size alone can hurt what copies it."""
    assert "File too large" in await tight.error(
        "import os; os.truncate(os.open('/tmp/f', os.O_CREAT | os.O_RDWR), 1 << 40)"
    )


async def test_nothing_of_a_sandbox_s_files_is_left(session: OpenSession) -> None:
    """All of it was in memory that its mount namespace held."""
    mounts = Path("/proc/self/mountinfo").read_text()
    attacker = Attacker(await session())
    await attacker.run("open('/home/user/big', 'wb').write(bytes(200 << 20))")
    held = _shared_memory_kib()
    await attacker.driver.session.close()
    await eventually(lambda: held - _shared_memory_kib() > 150 << 10, 10.0, lambda: (held, _shared_memory_kib()))
    assert Path("/proc/self/mountinfo").read_text() == mounts


def _shared_memory_kib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:"))


async def test_other_sandboxes_files_are_out_of_reach(session: OpenSession) -> None:
    one, two = Attacker(await session()), Attacker(await session())
    for folder in ("/tmp", "/home/user", "/dev/shm", "/var/tmp"):
        await one.run(f"open('{folder}/mine', 'w').close()")
        assert await two.value(f"import os; os.path.exists('{folder}/mine')") is False


async def test_the_sandbox_s_links_do_not_fool_the_host(attacker: Attacker, run_folder: Path) -> None:
    """The host looks at a sandbox's disk usage only by the file system, never by a path that the sandbox can bend."""
    await attacker.as_root(f"import os; os.rename('/home', '/h'); os.symlink('{run_folder}', '/home')")
    usage = await asyncio.to_thread(attacker.driver.session.usage)
    assert usage.disk_total_bytes == attacker.driver.session.options.policy.limits.disk_mib << 20
