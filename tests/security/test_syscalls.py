"""System calls that must not work, tried for real inside a sandbox; and programs that must. One attack, one test."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from raybox_actors.isolation.syscall_numbers import NUMBERS
from tests.security.conftest import Attacker

pytestmark = pytest.mark.pool

N = NUMBERS["x86_64"]
CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(one) if isinstance(one, int) else one
                                                   for one in arguments))
    return "worked" if result != -1 else errno.errorcode[ctypes.get_errno()]
"""
#: Name of the attack -> call, arguments, what it must come to, and why it matters.
CLOSED: dict[str, tuple[str, tuple[Any, ...], str, str]] = {
    "user namespace": ("unshare", (0x10000000,), "EPERM", "full capabilities against the kernel's widest interfaces"),
    "mount namespace": ("unshare", (0x20000,), "EPERM", "mounts of one's own"),
    "network namespace": ("unshare", (0x40000000,), "EPERM", "netfilter and raw sockets of one's own"),
    "time namespace": ("unshare", (0x80,), "EPERM", "its flag is another's in clone"),
    "clone into a user namespace": ("clone", (0x10000000 | 17, 0, 0, 0, 0), "EPERM", "unshare by another name"),
    "clone3": ("clone3", (0, 0), "ENOSYS", "its flags cannot be looked at"),
    "setns": ("setns", (0, 0), "EPERM", "entering somebody's namespace"),
    "mount": ("mount", (b"none", b"/mnt", b"tmpfs", 0, 0), "EPERM", "covering what others trust"),
    "umount": ("umount2", (b"/proc", 2), "EPERM", "uncovering what is masked"),
    "pivot_root": ("pivot_root", (b".", b"."), "EPERM", "leaving the root"),
    "open_tree": ("open_tree", (-100, b"/", 1), "EPERM", "a copy of a mount without what covers it"),
    "fsopen": ("fsopen", (b"tmpfs", 0), "EPERM", "mount by another name"),
    "move_mount": ("move_mount", (-1, b"", -1, b"", 4), "EPERM", "mount by another name"),
    "mount_setattr": ("mount_setattr", (-100, b"/", 0, 0, 0), "EPERM", "making read-only mounts writable"),
    "keyring": ("keyctl", (0, -3, 1), "EPERM", "keys outlive the sandbox in its user namespace"),
    "add_key": ("add_key", (b"user", b"a", b"b", 1, -3), "EPERM", "keys outlive the sandbox"),
    "request_key": ("request_key", (b"user", b"a", 0, 0), "EPERM", "makes the host's root run a helper"),
    "bpf": ("bpf", (0, 0, 0), "EPERM", "programs in the kernel"),
    "perf_event_open": ("perf_event_open", (0, 0, -1, -1, 0), "EPERM", "side channels and a record of holes"),
    "io_uring": ("io_uring_setup", (1, 0), "EPERM", "does system calls past the filter"),
    "userfaultfd": ("userfaultfd", (1,), "EPERM", "stops the kernel in the middle of its work"),
    "open_by_handle_at": ("open_by_handle_at", (-100, 0, 0), "EPERM", "any file of a file system, by number"),
    "quotactl": ("quotactl", (0, 0, 0, 0), "EPERM", "the host's quotas"),
    "acct": ("acct", (0,), "EPERM", "the host's accounting"),
    "swapon": ("swapon", (b"/tmp/f", 0), "EPERM", "the host's swap"),
    "settimeofday": ("settimeofday", (0, 0), "EPERM", "the host's clock"),
    "clock_settime": ("clock_settime", (0, 0), "EPERM", "the host's clock"),
    "sethostname": ("sethostname", (b"x", 1), "EPERM", "names that logs are told by"),
    "kernel log": ("syslog", (10, 0, 0), "EPERM", "addresses of the kernel"),
    "iopl": ("iopl", (3,), "EPERM", "the machine's ports"),
    "ioperm": ("ioperm", (0, 1, 1), "EPERM", "the machine's ports"),
    "modify_ldt": ("modify_ldt", (0, 0, 0), "EPERM", "segments, a record of holes"),
    "kcmp": ("kcmp", (1, 1, 0, 0, 0), "EPERM", "the order of the kernel's addresses"),
    "fanotify": ("fanotify_init", (0, 0), "EPERM", "watching a whole file system"),
    "personality": ("personality", (0x0400000,), "EPERM", "readable implies executable"),
    "packet socket": ("socket", (17, 3, 0x300), "EAFNOSUPPORT", "reading the wire"),
    "raw socket": ("socket", (2, 3, 255), "EAFNOSUPPORT", "forging packets"),
    "raw icmp socket": ("socket", (2, 3, 1), "EPERM", "needs a capability that nobody inside has"),
    "vsock": ("socket", (40, 1, 0), "EAFNOSUPPORT", "the host of a virtual machine"),
    "crypto socket": ("socket", (38, 5, 0), "EAFNOSUPPORT", "loads modules of the host"),
    "sctp socket": ("socket", (2, 1, 132), "EAFNOSUPPORT", "loads modules of the host"),
    "netfilter socket": ("socket", (16, 3, 12), "EAFNOSUPPORT", "the host's packet filter, a record of holes"),
    "audit socket": ("socket", (16, 3, 9), "EAFNOSUPPORT", "the host's audit log"),
    "typing into a terminal": ("ioctl", (0, 0x5412, b"x"), "EPERM", "commands for whoever reads it next"),
    "line discipline": ("ioctl", (0, 0x5423, 0), "EPERM", "loads modules of the host"),
}  # fmt: skip
#: Calls that end the process.
FATAL = {
    "init_module": "code in the kernel",
    "finit_module": "code in the kernel",
    "delete_module": "code out of the kernel",
    "kexec_load": "another kernel",
    "reboot": "the machine's end",
}


@pytest.mark.parametrize("attack", CLOSED)
def test_a_closed_call_fails(prober: Attacker, attack: str) -> None:
    name, arguments, expected, why = CLOSED[attack]
    prober.run(CALL)
    assert prober.value(f"call({N[name]}, *{arguments!r})") == expected, why


@pytest.mark.parametrize("attack", ["user namespace", "mount", "open_tree", "keyring", "bpf", "setns", "umount"])
def test_a_closed_call_fails_for_root_too(prober: Attacker, attack: str) -> None:
    name, arguments, expected, why = CLOSED[attack]
    status, said = prober.as_root(f"{CALL}\nprint(call({N[name]}, *{arguments!r}))")
    assert (status, said.strip()) == (0, expected), why


@pytest.mark.parametrize("name", FATAL)
def test_trying_to_take_over_the_machine_ends_the_process(attacker: Attacker, name: str) -> None:
    code = f"{CALL}\nimport os\npid = os.fork()\nif not pid:\n    call({N[name]}, 0, 0, 0)\n    os._exit(0)\n"
    assert attacker.value(code + "os.waitpid(pid, 0)[1]") & 0x7F == signal.SIGSYS, FATAL[name]


def test_calls_of_the_i386_abi_end_the_process(attacker: Attacker) -> None:
    """`int 0x80` from a 64-bit program: other numbers, another table, the same kernel."""
    code = """
import ctypes, mmap, os
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000" "cd80" "c3"))  # mov eax, 20 (getpid); int 0x80; ret
pid = os.fork()
if not pid:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
os.waitpid(pid, 0)[1]
"""
    assert attacker.value(code) & 0x7F in (signal.SIGSYS, signal.SIGSEGV)


def test_calls_of_the_x32_abi_end_the_process(attacker: Attacker) -> None:
    code = f"{CALL}\nimport os\npid = os.fork()\nif not pid:\n    call(0x40000000 | 39)\n    os._exit(0)\n"
    assert attacker.value(code + "os.waitpid(pid, 0)[1]") & 0x7F == signal.SIGSYS


def test_every_process_has_the_filter_and_no_new_privileges(prober: Attacker) -> None:
    """The kernel, what it starts, what root starts, and pid 1."""
    code = "dict(l.split(':\\t', 1) for l in open('/proc/self/status').read().splitlines() if ':\\t' in l)"
    lines = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status"
    status = prober.value(code)
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    said = prober.value(f"import subprocess; subprocess.check_output(['bash', '-c', {lines!r}], text=True).split()")
    assert said == ["NoNewPrivs:", "1", "Seccomp:", "2"]
    _, said = prober.as_root(f"print({code}['Seccomp'])")
    assert said.strip() == "2"
    assert "Seccomp:\t2" in Path(f"/proc/{prober.first_pid}/status").read_text()


def test_the_filter_cannot_be_taken_off(prober: Attacker) -> None:
    prober.run(CALL)
    assert prober.value(f"call({N['prctl']}, 22, 0, 0)") == "EINVAL"


def test_sync_does_not_reach_the_hosts_disks(prober: Attacker) -> None:
    prober.run(CALL)
    assert prober.value(f"call({N['sync']})") == "worked"


def test_a_debugger_works_inside(attacker: Attacker) -> None:
    """Allowed on purpose: it can only reach what the pid namespace shows."""
    code = f"""{CALL}
import os, signal, time
pid = os.fork()
if not pid:
    time.sleep(100)
[call({N["ptrace"]}, 16, pid, 0, 0), os.waitpid(pid, 0)[0] == pid, os.kill(pid, signal.SIGKILL)]
"""
    assert attacker.value(code) == ["worked", True, None]


def test_pid_1_cannot_be_traced(prober: Attacker) -> None:
    prober.run(CALL)
    assert prober.value(f"call({N['ptrace']}, 16, 1, 0, 0)") == "EPERM"
    _, said = prober.as_root(f"{CALL}\nprint(call({N['ptrace']}, 16, 1, 0, 0))")
    assert said.strip() == "EPERM"


WORKS = {
    "threads": "import threading\nt = [threading.Thread(target=lambda: None) for _ in range(20)]\n"
    "[x.start() for x in t]; [x.join() for x in t]; 'ok'",
    "multiprocessing": "import multiprocessing as m\n"
    "with m.get_context('fork').Pool(2) as p:\n    r = p.map(abs, [-1])\n"
    "'ok' if r == [1] else r",
    "shared memory": "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=100000)\n"
    "m.close(); m.unlink(); 'ok'",
    "subprocess": "import subprocess; subprocess.check_output('echo ok | cat', shell=True, text=True).strip()",
    "asyncio subprocess": "import asyncio\np = await asyncio.create_subprocess_exec('true')\n"
    "'ok' if await p.wait() == 0 else 'bad'",
    "numpy": "import numpy as np; 'ok' if np.linalg.svd(np.eye(300))[1].sum() > 299 else 'bad'",
    "pandas": "import pandas as pd; 'ok' if pd.DataFrame({'a': [1, 2]}).a.sum() == 3 else 'bad'",
    "matplotlib": "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig('/tmp/f.png'); plt.close(); 'ok'",
    "sqlite": "import sqlite3; sqlite3.connect('/tmp/d').execute('create table t(a)'); 'ok'",
    "sockets": "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
    "c = socket.create_connection(s.getsockname())\ns.close(); c.close(); 'ok'",
    "interfaces": "import socket; 'ok' if socket.if_nameindex() else 'bad'",
}


@pytest.mark.parametrize("what", WORKS)
def test_ordinary_programs_work(prober: Attacker, what: str) -> None:
    assert prober.value(WORKS[what]) == "ok"


@pytest.mark.parametrize(
    ("runtime", "arguments"),
    [
        ("node", ["-e", "const fs=require('fs'); fs.promises.readFile('/etc/passwd').then(() => console.log('ok'))"]),
        ("R", ["--no-echo", "--no-save", "-e", "cat('ok\\n')"]),
        ("java", ["-version"]),
        ("gcc", ["--version"]),
        ("git", ["--version"]),
    ],
)
def test_other_runtimes_work(prober: Attacker, runtime: str, arguments: list[str]) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed here")
    prober.run("import subprocess")
    assert prober.value(f"subprocess.run({[runtime, *arguments]!r}, capture_output=True).returncode") == 0
