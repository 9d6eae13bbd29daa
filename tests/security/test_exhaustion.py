"""Using up the machine: each bound of a sandbox is crossed, and the node goes on. One attack, one test."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from raybox_actors.executions import OutputLimits
from raybox_actors.isolation.cgroup import this_machine
from raybox_actors.isolation.policy import Limits
from raybox_actors.session import SessionOptions
from tests.actors.driving import eventually
from tests.security.conftest import TIGHT, Attacker, OpenSession

pytestmark = pytest.mark.anyio
needs_cgroups = pytest.mark.skipif(this_machine() is None, reason="no cgroup of our own can be made here")


def events(cell: object, kind: str) -> list[dict[str, object]]:
    return [event for event in cell.events if event["type"] == kind]  # type: ignore[attr-defined]


@needs_cgroups
async def test_a_fork_bomb_ends_at_the_limit_of_processes(tight: Attacker) -> None:
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
    assert (await tight.run(code)).text().strip() == "BlockingIOError True"


@needs_cgroups
async def test_a_bomb_of_forking_children_does_not_keep_the_sandbox_from_ending(
    session: OpenSession, base_options: SessionOptions
) -> None:
    """Every process forks all the time: killing one by one would never be done, killing the pid namespace is."""
    attacker = Attacker(await session(policy=replace(base_options.policy, limits=TIGHT)))
    cell = await attacker.driver.start(
        "import os\nprint('up', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    )
    while "up" not in cell.text():
        await attacker.driver.poll(cell)
    group = attacker.driver.session._cgroup
    assert group is not None
    await eventually(lambda: len(group.processes()) >= 60, 10.0, group.processes)
    await attacker.driver.session.close()
    assert group.processes() == []
    assert not group.folders["memory"].exists()
    assert await Attacker(await session()).value("1 + 1") == 2


@needs_cgroups
async def test_a_thread_bomb_ends_at_the_limit_of_processes(tight: Attacker) -> None:
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
    assert (await tight.run(code)).text().strip() == "stopped True"


async def test_a_bomb_of_open_files_ends_at_the_limit_of_the_process(tight: Attacker) -> None:
    assert "Too many open files" in await tight.error("held = [open('/dev/null') for _ in range(1000)]")
    assert await tight.value("held = None; 1 + 1") == 2


@needs_cgroups
async def test_a_memory_bomb_ends_the_kernel_and_is_reported_as_oom(tight: Attacker) -> None:
    """Found by the cgroup's own count, and told to the caller in a field of its own."""
    await tight.run("x = 1")
    cell = await tight.run("held = bytearray(1 << 30)\nfor n in range(0, len(held), 4096): held[n] = 1")
    (error,) = events(cell, "error")
    assert (error["name"], error["kind"]) == ("OutOfMemory", "oom")
    assert "state of the context is gone" in str(error["value"])
    assert "NameError" in await tight.error("x")


@needs_cgroups
async def test_a_bomb_of_mapped_memory_is_bounded_too(tight: Attacker) -> None:
    code = (
        "import mmap\nheld = []\nwhile True:\n    held.append(mmap.mmap(-1, 16 << 20)); held[-1].write(bytes(16 << 20))"
    )
    (error,) = events(await tight.run(code), "error")
    assert error.get("kind") == "oom"


@needs_cgroups
async def test_memory_of_a_child_is_the_sandbox_s(tight: Attacker) -> None:
    """The child goes, the kernel stays, or both go; the sandbox answers either way."""
    code = "import subprocess, sys; bomb = 'x = bytes(1 << 30); y = bytearray(x)'\n"
    code += "subprocess.run([sys.executable, '-c', bomb]).returncode"
    cell = await tight.run(code)
    assert cell.result == "-9" or events(cell, "error")
    assert await tight.value("1 + 1") == 2


@needs_cgroups
async def test_a_kernel_that_is_killed_otherwise_is_not_reported_as_oom(tight: Attacker) -> None:
    (error,) = events(await tight.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), "error")
    assert error["name"] == "UnexpectedEndOfExecution"
    assert "kind" not in error


@needs_cgroups
async def test_an_earlier_out_of_memory_is_not_blamed_for_a_later_death(tight: Attacker) -> None:
    """A child was killed for want of memory, then the kernel kills itself."""
    group = tight.driver.session._cgroup
    assert group is not None
    bomb = "'x = bytearray(1 << 30)\\nfor n in range(0, len(x), 4096): x[n] = 1'"
    await tight.run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {bomb}])")
    assert group.oom_kills() > 0
    (error,) = events(await tight.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), "error")
    assert "kind" not in error


@needs_cgroups
async def test_the_cause_of_a_sandbox_s_end_is_oom_when_memory_ran_out_just_before(
    session: OpenSession, base_options: SessionOptions
) -> None:
    ended = asyncio.Event()
    attacker = Attacker(await session(ended.set, policy=replace(base_options.policy, limits=TIGHT)))
    assert attacker.driver.session.death_cause() == "internal"
    await attacker.run("held = bytearray(1 << 30)\nfor n in range(0, len(held), 4096): held[n] = 1")
    os.kill(attacker.first_pid, signal.SIGKILL)  # as the host's own want of memory would
    await asyncio.wait_for(ended.wait(), 10)
    assert attacker.driver.session.death_cause() == "oom"


async def test_a_full_disk_is_an_error_and_not_the_end(tight: Attacker) -> None:
    assert "No space left" in await tight.error("for n in range(99): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))")
    assert await tight.value("import glob, os; [os.remove(p) for p in glob.glob('/tmp/*')]; 1 + 1") == 2


async def test_a_flood_of_empty_files_ends_at_the_limit_of_inodes(tight: Attacker) -> None:
    """They take no space, and yet kernel memory."""
    assert "No space left" in await tight.error("for n in range(10_000): open(f'/tmp/{n}', 'w').close()")


async def test_shared_memory_has_its_own_bounds(tight: Attacker) -> None:
    assert "No space left" in await tight.error("open('/dev/shm/f', 'wb').write(bytes(32 << 20))")
    assert "No space left" in await tight.error("for n in range(1000): open(f'/dev/shm/{n}', 'w').close()")


@needs_cgroups
async def test_a_cpu_spin_gets_its_quota_and_no_more(session: OpenSession, base_options: SessionOptions) -> None:
    """Four busy processes of a sandbox with half a core: counted by the cgroup."""
    limits = replace(TIGHT, cpus=0.5)
    attacker = Attacker(await session(policy=replace(base_options.policy, limits=limits)))
    session_ = attacker.driver.session
    await attacker.run("import os\nfor _ in range(4):\n    if not os.fork():\n        while True: pass")
    loop = asyncio.get_running_loop()
    assert session_._cgroup is not None
    began_s, used_s = loop.time(), session_._cgroup.usage().cpu_s
    await eventually(lambda: loop.time() - began_s > 1.0, 10.0)
    spent_s, passed_s = session_._cgroup.usage().cpu_s - used_s, loop.time() - began_s
    # One period of 100 ms may be begun and one ended within the span, and each process may overrun it by a tick.
    assert spent_s <= 0.5 * (passed_s + 0.2) + 0.1, (spent_s, passed_s)
    assert await Attacker(await session()).value("1 + 1") == 2


async def test_endless_output_is_cut_and_counted(session: OpenSession) -> None:
    attacker = Attacker(await session(output=OutputLimits(output_bytes=1 << 20)))
    cell = await attacker.run("for _ in range(100_000): print('x' * 100)", timeout_s=60)
    assert len(cell.lines) < 8 << 20
    assert await attacker.value("1 + 1") == 2


async def test_a_gigantic_line_is_cut(session: OpenSession) -> None:
    attacker = Attacker(await session(output=OutputLimits(output_bytes=1 << 20)))
    cell = await attacker.run("print('x' * (50 << 20))", timeout_s=60)
    assert len(cell.lines) < 8 << 20
    assert await attacker.value("1 + 1") == 2


async def test_a_gigantic_image_is_dropped_with_a_note(attacker: Attacker) -> None:
    code = "from IPython.display import publish_display_data\n"
    code += "publish_display_data({'image/png': 'A' * (80 << 20), 'text/plain': 'picture'})"
    cell = await attacker.run(code, timeout_s=60)
    (result,) = events(cell, "result")
    assert "png" not in result
    assert "over the limit" in str(result["text"])


async def test_deep_json_does_not_hurt_who_reads_it(attacker: Attacker) -> None:
    """A reader that recurses would overflow its stack."""
    code = "from IPython.display import publish_display_data\nx = []\nfor _ in range(100_000): x = [x]\n"
    await attacker.run(code + "publish_display_data({'application/json': x})", timeout_s=60)
    assert await attacker.value("1 + 1") == 2


async def test_json_that_grows_when_it_is_read_is_refused(attacker: Attacker) -> None:
    """Three bytes on the wire, fifty-six in memory: a frame has a bound on its parts, too."""
    code = "from IPython.display import publish_display_data\n"
    await attacker.run(
        code + "publish_display_data({'application/json': [[] for _ in range(5_000_000)]})", timeout_s=90
    )
    assert await attacker.value("1 + 1") == 2


async def test_too_many_contexts_are_refused(session: OpenSession) -> None:
    from raybox_actors.errors import LimitReached

    attacker = Attacker(await session(max_contexts=3))
    for _ in range(2):
        await attacker.driver.session.create_context(None, None)
    with pytest.raises(LimitReached):
        await attacker.driver.session.create_context(None, None)


@needs_cgroups
async def test_limits_that_are_set_later_hold_as_well(session: OpenSession) -> None:
    attacker = Attacker(await session())
    less = replace(Limits(), memory_mib=128, disk_mib=32, pids_max=24)
    await attacker.driver.session.set_limits(less)
    assert "No space left" in await attacker.error("open('/tmp/f', 'wb').write(bytes(40 << 20))")
    await attacker.run("import os, subprocess; os.remove('/tmp/f'); held = []")
    spawn = "for _ in range(40): held.append(subprocess.Popen(['sleep', '60']))"
    assert "Resource temporarily unavailable" in await attacker.error(spawn)
    await attacker.run("for one in held: one.kill(); one.wait()")
    assert attacker.driver.session.usage().memory_total_bytes == less.memory_bytes
    assert "OutOfMemory" in await attacker.error("held = bytearray(b'x' * (300 << 20))")


@needs_cgroups
async def test_usage_is_told(session: OpenSession) -> None:
    attacker = Attacker(await session())
    first = attacker.driver.session.usage()
    await attacker.run("open('/tmp/f', 'wb').write(bytes(50 << 20)); held = bytearray(b'x' * (50 << 20))")
    await attacker.run("sum(range(10_000_000))")
    second = attacker.driver.session.usage()
    assert second.disk_used_bytes - first.disk_used_bytes >= 50 << 20
    assert second.memory_used_bytes - first.memory_used_bytes >= 90 << 20
    assert second.memory_cache_bytes >= 50 << 20
    assert second.cpu_used_pct > 0
    assert second.memory_total_bytes == attacker.driver.session.options.policy.limits.memory_bytes
    assert attacker.driver.session.metrics(None, None)
    assert attacker.driver.session.metrics(second.at_s + 100, None) == []
