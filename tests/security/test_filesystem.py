"""Files: what of the host is there, who may write where, and how much. One attack, one test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raybox_actors.isolation.layers import layers_failure
from raybox_actors.isolation.policy import MASKED
from raybox_actors.session import SessionOptions
from tests.actors.agent.driving import Sandbox
from tests.security.conftest import Attacker, OpenAttacker, OpenSession
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool
needs_layers = pytest.mark.skipif(bool(layers_failure()), reason="this kernel cannot stack idmapped layers")


def test_files_of_the_host_are_not_there(attacker: Attacker, tmp_path: Path) -> None:
    """For `user` and for root: there is no path to them, whatever the rights."""
    (tmp_path / "secret").write_text("s")
    paths = [
        str(tmp_path / "secret"),
        __file__,
        "/sys",
        "/boot",
        f"/run/raybox/{attacker.pool.name}",
        "/tmp/ray",
        "/dev/shm/x",
    ]
    paths += ["/etc/shadow", "/var/lib/docker", "/var/run/docker.sock", "/root/.ssh", "/root/.ray"]
    code = f"import os; print([os.path.exists(path) for path in {paths!r}])"
    assert Path("/run/raybox", attacker.pool.name).exists()
    expected = str([False] * len(paths))
    assert attacker.said(code) == expected
    assert attacker.as_root(code) == (0, expected + "\n")


def test_the_first_process_is_no_way_out(prober: Attacker) -> None:
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
    assert prober.said(code) == denied
    assert (prober.as_root(code))[1].strip() == denied


def test_own_root_through_proc_is_the_sandbox_s(prober: Attacker) -> None:
    code = "import os; [os.path.exists('/proc/self/root/proc/1'), os.path.exists('/proc/self/root/work')]"
    assert prober.value(code) == [True, False]


def test_climbing_out_with_dots_and_links_ends_at_the_root(attacker: Attacker) -> None:
    code = "import os; os.symlink('/' + '../' * 40 + 'etc/hostname', '/tmp/l'); open('/tmp/l').read().strip()"
    assert attacker.value(code) == "sandbox"


def test_chroot_is_no_way_out(attacker: Attacker) -> None:
    """The classic: chroot below the working folder, then climb. The mount namespace has nothing above its root."""
    code = """
import os
os.mkdir('/tmp/c'); os.chroot('/tmp/c')
for _ in range(100): os.chdir('..')
os.chroot('.')
print(sorted(set(os.listdir('/')) & {'work', 'boot', 'sys', 'usr'}))
"""
    assert attacker.as_root(code) == (0, "['usr']\n")


def test_a_user_may_not_change_the_machine(attacker: Attacker) -> None:
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
    assert attacker.value(code) == 8


@needs_layers
def test_root_changes_the_machine_but_only_its_own(attacker: Attacker, attackers: OpenAttacker) -> None:
    """What root writes below /usr is in the sandbox's layer: neither the host nor another sandbox sees it."""
    before = set(Path("/usr/bin").iterdir())
    code = "open('/usr/bin/planted', 'w').write('x'); open('/etc/planted', 'w'); open('/opt/planted', 'w')\n"
    code += "import os; os.remove('/usr/bin/env'); os.mkdir('/data'); print(os.path.exists('/usr/bin/env'))"
    assert attacker.as_root(code) == (0, "False\n")
    assert attacker.value("import os; os.path.exists('/usr/bin/planted')") is True
    assert set(Path("/usr/bin").iterdir()) == before
    assert not [*Path("/run/raybox", attacker.pool.name).rglob("planted")]
    other = attackers()
    assert other.value("import os; [os.path.exists('/usr/bin/planted'), os.path.exists('/usr/bin/env')]") == [
        False,
        True,
    ]


@needs_layers
def test_the_template_is_not_changed_by_its_sandbox(attacker: Attacker) -> None:
    """Or every later sandbox of the node would run what this one planted."""
    prefix = attacker.value("import sys; sys.prefix")
    assert Path(prefix).exists()
    status, said = attacker.as_root(f"open('{prefix}/planted.py', 'w').write('evil'); print('done')")
    assert (status, said) == (0, "done\n")
    assert not Path(prefix, "planted.py").exists()


@needs_layers
def test_the_host_s_files_belong_to_the_sandbox_s_root(prober: Attacker) -> None:
    code = "import os; [os.stat(p).st_uid for p in ('/', '/usr', '/usr/bin/env', '/etc/passwd', '/bin')]"
    assert prober.value(code) == [0] * 5


@pytest.mark.anyio
@pytest.mark.usefixtures("others_served")
async def test_where_layers_are_missing_system_folders_are_read_only(
    session: OpenSession, base_options: SessionOptions
) -> None:
    """The fallback of older kernels: weaker comfort, not weaker walls."""
    plain = Sandbox(await session(policy=replace(base_options.policy, layers=())))
    assert (await plain.driver.run("open('/tmp/f', 'w').write('x')")).result == "1"
    outcome = await plain.run("touch", "/usr/bin/planted", user="root")
    assert outcome.code == 1
    assert b"Read-only file system" in outcome.output["stderr"]


def test_set_user_id_programs_give_nothing(attacker: Attacker) -> None:
    """A copy of a shell that root marks set-user-id: no new privileges, and the mounts are nosuid."""
    attacker.as_root("import os, shutil; shutil.copy('/bin/bash', '/opt/sh'); os.chmod('/opt/sh', 0o4755)")
    code = "import subprocess; subprocess.check_output(['/opt/sh', '-p', '-c', 'id -u'], text=True).strip()"
    assert attacker.value(code) == 1000


def test_device_files_are_useless(attacker: Attacker) -> None:
    """The host's disk by its number: making it needs a capability that nobody inside has."""
    status, said = attacker.as_root("import os, stat; os.mknod('/opt/disk', 0o666 | stat.S_IFBLK, os.makedev(254, 0))")
    assert status == 1
    assert "Operation not permitted" in said


def test_dev_has_harmless_devices_only(prober: Attacker) -> None:
    code = "import os, stat; sorted(n for n in os.listdir('/dev') if stat.S_ISBLK(os.lstat('/dev/' + n).st_mode) "
    code += "or (stat.S_ISCHR(os.lstat('/dev/' + n).st_mode) and "
    code += "n not in ('null', 'zero', 'full', 'random', 'urandom', 'tty', 'console', 'ptmx')))"
    assert prober.value(code) == []


@pytest.mark.parametrize("path", MASKED)
def test_what_proc_says_of_the_host_is_empty(prober: Attacker, path: str) -> None:
    code = f"import os; print(open({path!r}).read() if os.path.exists({path!r}) else '')"
    assert prober.said(code) == ""
    assert (prober.as_root(code))[1].strip() == ""


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches"],
)
def test_the_kernel_s_switches_are_out_of_reach(prober: Attacker, path: str) -> None:
    """A helper of the kernel's own that runs as the host's root is the oldest way out of a container."""
    code = f"open({path!r}, 'w').write('x')"
    assert prober.error(code)
    assert (prober.as_root(code))[0] == 1


def test_the_boot_id_is_the_sandbox_s_own(attackers: OpenAttacker) -> None:
    """Else two sandboxes know that they share a machine, and which one."""
    path = "/proc/sys/kernel/random/boot_id"
    seen = [attackers().value(f"open('{path}').read().strip()") for _ in range(2)]
    assert len({*seen, Path(path).read_text().strip()}) == 3
    assert [len(one) for one in seen] == [36, 36]


def test_one_quota_bounds_all_that_is_written(tight: Attacker) -> None:
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
    assert tight.value(code) == [True, 28]


@needs_layers
def test_the_quota_bounds_what_root_writes_to_system_folders(tight: Attacker) -> None:
    status, said = tight.as_root("open('/usr/lib/big', 'wb').write(bytes(100 << 20))")
    assert status != 0
    assert "No space left" in said or "File too large" in said


def test_a_single_file_is_bounded(tight: Attacker) -> None:
    """Also one that has holes: its size alone can hurt what copies it."""
    assert "File too large" in tight.error("import os; os.truncate(os.open('/tmp/f', os.O_CREAT | os.O_RDWR), 1 << 40)")


def test_nothing_of_a_sandbox_s_files_is_left(attacker: Attacker) -> None:
    """All of it was in memory that its mount namespace held."""
    attacker.run("open('/home/user/big', 'wb').write(bytes(200 << 20))")
    held = _shared_memory_kib()
    attacker.sandbox.kill()
    wait_until(lambda: held - _shared_memory_kib() > 150 << 10, 10.0, lambda: (held, _shared_memory_kib()))


def _shared_memory_kib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:"))


def test_other_sandboxes_files_are_out_of_reach(attackers: OpenAttacker) -> None:
    one, two = attackers(), attackers()
    for folder in ("/tmp", "/home/user", "/dev/shm", "/var/tmp"):
        one.run(f"open('{folder}/mine', 'w').close()")
        assert two.value(f"import os; os.path.exists('{folder}/mine')") is False


def test_the_sandbox_s_links_do_not_fool_the_host(attacker: Attacker, running_pool: RunningPool) -> None:
    """The host looks at a sandbox's disk usage only by the file system, never by a path that the sandbox can bend."""
    before = attacker.sandbox.get_metrics()[-1].disk_total
    attacker.as_root(f"import os; os.rename('/home', '/h'); os.symlink('/run/raybox/{running_pool.name}', '/home')")
    assert attacker.sandbox.get_metrics()[-1].disk_total == before
