"""Using up the machine: each bound of a sandbox is crossed, and the node goes on. One attack, one test."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

import raybox
from raybox_actors.executions import OutputLimits
from raybox_actors.isolation.cgroup import this_machine
from tests.actors.driving import Driver
from tests.security.conftest import TIGHT, Attacker, OpenAttacker, OpenSession
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool
needs_cgroups = pytest.mark.skipif(this_machine() is None, reason="no cgroup of our own can be made here")
#: More than TIGHT gives, touched page by page.
MEMORY_BOMB = "held = bytearray(1 << 30)\nfor n in range(0, len(held), 4096): held[n] = 1"


@needs_cgroups
def test_a_fork_bomb_ends_at_the_limit_of_processes(tight: Attacker) -> None:
    code = """
import os, time
children = 0
try:
    while True:
        if not os.fork():
            time.sleep(1000)
        children += 1
except OSError as error:
    print(type(error).__name__, children < 64)
"""
    assert tight.said(code) == "BlockingIOError True"


@needs_cgroups
def test_a_bomb_of_forking_children_does_not_keep_the_sandbox_from_ending(tight: Attacker) -> None:
    """Every process forks all the time: killing one by one would never be done, killing the pid namespace is."""

    def explode() -> None:
        with contextlib.suppress(raybox.RayboxError):
            tight.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")

    bomb = threading.Thread(target=explode)
    bomb.start()
    wait_until(lambda: len(tight.group.processes()) >= 60, 10.0, tight.group.processes)
    tight.sandbox.kill()
    assert tight.group.processes() == []
    wait_until(lambda: not tight.group.folders["memory"].exists(), 10.0)
    bomb.join()


@needs_cgroups
def test_a_thread_bomb_ends_at_the_limit_of_processes(tight: Attacker) -> None:
    code = """
import threading
event, made = threading.Event(), []
try:
    for _ in range(1000):
        made.append(threading.Thread(target=event.wait, daemon=True))
        made[-1].start()
except RuntimeError:
    print('stopped', len(made) <= 64)
event.set()
"""
    assert tight.said(code) == "stopped True"


def test_a_bomb_of_open_files_ends_at_the_limit_of_the_process(tight: Attacker) -> None:
    code = "import os; held = []\nwhile True: held.append(os.open('/dev/null', 0))"
    assert "Too many open files" in tight.error(code)
    assert tight.value("[os.close(fd) for fd in held]; 1 + 1") == 2


@needs_cgroups
def test_a_memory_bomb_ends_the_kernel_and_is_reported_as_oom(tight: Attacker) -> None:
    """Found by the cgroup's own count."""
    tight.run("x = 1")
    error = tight.error(MEMORY_BOMB)
    assert error.startswith("OutOfMemory: ")
    assert "state of the context is gone" in error
    assert "NameError" in tight.error("x")


@needs_cgroups
def test_a_bomb_of_mapped_memory_is_bounded_too(tight: Attacker) -> None:
    code = (
        "import mmap\nheld = []\nwhile True:\n    held.append(mmap.mmap(-1, 16 << 20)); held[-1].write(bytes(16 << 20))"
    )
    assert tight.error(code).startswith("OutOfMemory: ")


@needs_cgroups
def test_memory_of_a_child_is_the_sandbox_s(tight: Attacker) -> None:
    """The child goes, the kernel stays, or both go; the sandbox answers either way."""
    code = "import subprocess, sys; bomb = 'x = bytes(1 << 30); y = bytearray(x)'\n"
    code += "subprocess.run([sys.executable, '-c', bomb]).returncode"
    execution = tight.run(code)
    assert execution.text == "-9" or execution.error is not None
    assert tight.value("1 + 1") == 2


@needs_cgroups
def test_a_kernel_that_is_killed_otherwise_is_not_reported_as_oom(tight: Attacker) -> None:
    assert tight.error("import os; os.kill(os.getpid(), 9)").startswith("UnexpectedEndOfExecution: ")


@needs_cgroups
def test_an_earlier_out_of_memory_is_not_blamed_for_a_later_death(tight: Attacker) -> None:
    """A child was killed for want of memory, then the kernel kills itself."""
    tight.run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {MEMORY_BOMB!r}])")
    assert tight.group.oom_kills() > 0
    assert tight.error("import os; os.kill(os.getpid(), 9)").startswith("UnexpectedEndOfExecution: ")


@needs_cgroups
def test_the_cause_of_a_sandbox_s_end_is_oom_when_memory_ran_out_just_before(attackers: OpenAttacker) -> None:
    causes = []
    for before in ("1 + 1", MEMORY_BOMB):
        attacker = attackers(**TIGHT)
        attacker.run(before)
        os.kill(attacker.first_pid, signal.SIGKILL)  # as the host's own want of memory would
        wait_until(lambda attacker=attacker: not attacker.sandbox.is_running(), 10.0)  # type: ignore[misc]
        with pytest.raises(raybox.RayboxError) as caught:
            attacker.run("1 + 1")
        causes.append(caught.value.cause)
    assert causes == ["internal", "oom"]


def test_a_full_disk_is_an_error_and_not_the_end(tight: Attacker) -> None:
    assert "No space left" in tight.error("for n in range(99): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))")
    assert tight.value("import glob, os; [os.remove(p) for p in glob.glob('/tmp/*')]; 1 + 1") == 2


def test_a_flood_of_empty_files_ends_at_the_limit_of_inodes(attacker: Attacker) -> None:
    """They take no space, and yet kernel memory."""
    most = attacker.value("import os; os.statvfs('/').f_files")
    assert "No space left" in attacker.error(f"for n in range({most}): os.mknod(f'/tmp/{{n}}')")


def test_shared_memory_has_its_own_bounds(attacker: Attacker) -> None:
    most = attacker.value("import os; shm = os.statvfs('/dev/shm'); [shm.f_blocks * shm.f_frsize >> 20, shm.f_files]")
    assert most[0] <= 256
    code = f"file = open('/dev/shm/f', 'wb')\nfor _ in range({most[0]} + 1): file.write(bytes(1 << 20))"
    assert "No space left" in attacker.error(code)
    assert "No space left" in attacker.error(f"for n in range({most[1]}): os.mknod(f'/dev/shm/{{n}}')")


@needs_cgroups
def test_a_cpu_spin_gets_its_quota_and_no_more(attackers: OpenAttacker) -> None:
    """Four busy processes of a sandbox with half a core: counted by the cgroup."""
    attacker = attackers(cpus=0.5)
    attacker.run("import os\nfor _ in range(4):\n    if not os.fork():\n        while True: pass")
    began_s, used_s = time.monotonic(), attacker.group.usage().cpu_s
    wait_until(lambda: time.monotonic() - began_s > 1.0, 10.0)
    spent_s, passed_s = attacker.group.usage().cpu_s - used_s, time.monotonic() - began_s
    # One period of 100 ms may be begun and one ended within the span, and each process may overrun it by a tick.
    assert spent_s <= 0.5 * (passed_s + 0.2) + 0.1, (spent_s, passed_s)


@pytest.mark.anyio
@pytest.mark.usefixtures("others_served")
async def test_endless_output_is_cut_and_counted(session: OpenSession) -> None:
    await cut(await session(output=OutputLimits(output_bytes=1 << 20)), "for _ in range(100_000): print('x' * 100)")


@pytest.mark.anyio
@pytest.mark.usefixtures("others_served")
async def test_a_gigantic_line_is_cut(session: OpenSession) -> None:
    await cut(await session(output=OutputLimits(output_bytes=1 << 20)), "print('x' * (50 << 20))")


async def cut(driver: Driver, code: str) -> None:
    cell = await driver.run(code, timeout_s=60)
    assert len(cell.lines) < 8 << 20
    assert (await driver.run("1 + 1")).result == "2"


def test_a_gigantic_image_is_dropped_with_a_note(attacker: Attacker) -> None:
    code = "from IPython.display import publish_display_data\n"
    code += "publish_display_data({'image/png': 'A' * (80 << 20), 'text/plain': 'picture'})"
    (result,) = attacker.run(code).results
    assert result.png is None
    assert "over the limit" in str(result.text)


def test_deep_json_does_not_hurt_who_reads_it(attacker: Attacker) -> None:
    """A reader that recurses would overflow its stack."""
    code = "from IPython.display import publish_display_data\nx = []\nfor _ in range(100_000): x = [x]\n"
    attacker.run(code + "publish_display_data({'application/json': x})")
    assert attacker.value("1 + 1") == 2


def test_json_that_grows_when_it_is_read_is_refused(attacker: Attacker) -> None:
    """Three bytes on the wire, fifty-six in memory: a frame has a bound on its parts, too."""
    code = "from IPython.display import publish_display_data\n"
    attacker.run(code + "publish_display_data({'application/json': [[] for _ in range(5_000_000)]})", timeout=90)
    assert attacker.value("1 + 1") == 2


def test_too_many_contexts_are_refused(attacker: Attacker) -> None:
    for _ in range(64 - len(attacker.sandbox.list_code_contexts())):
        attacker.sandbox.create_code_context()
    with pytest.raises(raybox.LimitException, match="64 contexts"):
        attacker.sandbox.create_code_context()


@needs_cgroups
def test_limits_that_are_set_later_hold_as_well(attackers: OpenAttacker) -> None:
    """A sandbox is built with the pool's limits, and gets the smaller ones that its creator asks for."""
    attacker = attackers(memory_mib=128, disk_mib=32, pids_max=24)
    assert "No space left" in attacker.error("open('/tmp/f', 'wb').write(bytes(40 << 20))")
    attacker.run("import os, subprocess; os.remove('/tmp/f'); held = []")
    spawn = "for _ in range(40): held.append(subprocess.Popen(['sleep', '60']))"
    assert "Resource temporarily unavailable" in attacker.error(spawn)
    attacker.run("for one in held: one.kill(); one.wait()")
    assert attacker.sandbox.get_metrics()[-1].mem_total == (128 + 32) << 20
    assert "OutOfMemory" in attacker.error("held = bytearray(b'x' * (300 << 20))")


@needs_cgroups
def test_usage_is_told(attacker: Attacker) -> None:
    first = attacker.sandbox.get_metrics()[-1]
    attacker.run("open('/tmp/f', 'wb').write(bytes(50 << 20)); held = bytearray(b'x' * (50 << 20))")
    attacker.run("sum(range(10_000_000))")
    second = attacker.sandbox.get_metrics()[-1]
    assert second.disk_used - first.disk_used >= 50 << 20
    assert second.mem_used - first.mem_used >= 90 << 20
    assert second.mem_cache >= 50 << 20
    assert second.cpu_used_pct > 0
    info = attacker.sandbox.get_info()
    assert second.mem_total == (info.memory_mb << 20) + second.disk_total
