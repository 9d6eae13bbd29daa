"""Entering a sandbox's walls and giving up every privilege on the way. Runs in the zygote's child: stdlib only."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal wraps in enums, which a fresh fork pays for
import contextlib
import ctypes
import os
import resource
import signal

from seccomp import Filter

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
#: Of the sandbox's first process, all but the user namespace (see `enter`) and the pid namespace (see `fork_into`).
SHARED_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LAST_CAPABILITY = 63
#: What `root` keeps in the sandbox's own user namespace: what it takes to own files, drop to other users and serve.
#: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, AUDIT_WRITE,
#: SETFCAP. Never SYS_ADMIN, SYS_PTRACE or NET_ADMIN; mounts, network and pids belong to another user namespace anyway.
ROOT_CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31})
CAPABILITY_VERSION_3 = 0x20080522

#: uid and gid of `user` inside; each sandbox has its own range of 65,536 host ids (policy.py of the pool).
USER_ID = 1000
IDS_PER_SANDBOX = 65_536

MADV_COLLAPSE = 25
HUGE_PAGE_BYTES = 2 << 20

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def setns(fd: int, namespaces: int) -> None:
    check(libc.setns(fd, namespaces), "setns")


def become_subreaper() -> None:
    """Or kernels whose parent went away would become zombies elsewhere and pin their pid namespace."""
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends. Not inherited by forks."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)


def join_pages() -> None:
    """Put this process's memory into huge pages, where the kernel can (Linux 6.1): a fork then copies fewer entries.

    Measured: a third off the fork of a 160 MB zygote. Children still copy single pages when they write.
    """
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, mode, *_, inode = line.split(maxsplit=5)[:5]
            if mode != "rw-p" or inode != "0":
                continue
            low, high = (int(end, 16) for end in span.split("-"))
            low, high = -(-low // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES, high // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
            if high > low:  # a failure costs nothing but the gain
                libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), MADV_COLLAPSE)


def pass_on_mappings() -> None:
    """Make forks inherit what is mapped of files here, instead of mapping every page again when they touch it.

    Linux copies page tables of those private mappings alone in which something has been written. So one byte of each
    is, as it is.
    """
    with (
        contextlib.suppress(OSError),  # a failure costs nothing but the gain
        open("/proc/self/maps") as maps,
        open("/proc/self/mem", "r+b", buffering=0) as memory,
    ):
        for line in maps.read().splitlines():
            span, mode, _, _, inode = line.split(maxsplit=5)[:5]
            if mode[0] == "r" and mode[3] == "p" and inode != "0":
                start = int(span.partition("-")[0], 16)
                os.pwrite(memory.fileno(), os.pread(memory.fileno(), 1, start), start)


def fork_into(pidfd: int, own_pid_namespace: int) -> int:
    """Fork; the child is in the pid namespace of `pidfd`. Returns as os.fork does. Needs root."""
    setns(pidfd, CLONE_NEWPID)  # of children only
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:  # a process cannot leave its pid namespace for an outer one: the child need not try
            with contextlib.suppress(OSError):
                setns(own_pid_namespace, CLONE_NEWPID)
    return pid


def map_ids(pid: int, first_id: int) -> None:
    """Write the id maps of a process that has just unshared its user namespace. Called by its parent, as root."""
    for kind in ("uid_map", "gid_map"):
        fd = os.open(f"/proc/{pid}/{kind}", os.O_WRONLY)
        try:
            os.write(fd, f"0 {first_id} {IDS_PER_SANDBOX}\n".encode())
        finally:
            os.close(fd)


def join_cgroup(fds: list[int]) -> None:
    """Move this process, which has one thread, into the groups whose entrances these are."""
    for fd in fds:
        os.write(fd, b"0")


def give_up_privileges(oom_score_adj: int, limits: dict[str, int], calls: Filter, root: bool = False) -> None:
    """Become `user` for good: ids, capabilities, bounding set, no new privileges, system calls.

    root: become the sandbox's root instead, who is nobody outside and keeps ROOT_CAPABILITIES within the sandbox.
    """
    # Without Python's own files: what a fresh fork touches for the first time costs it several microseconds a page.
    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(score, b"%d" % oom_score_adj)
    os.close(score)
    os.setgroups([])
    kept = ROOT_CAPABILITIES if root else frozenset()
    bound_capabilities(kept)
    new_id = 0 if root else USER_ID
    os.setresgid(new_id, new_id, new_id)
    os.setresuid(new_id, new_id, new_id)
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    set_capabilities(kept)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (bound, bound))
    calls.load()


def be_seen() -> None:
    """The change of ids made /proc/self root's; debuggers and profilers inside expect it to be the user's.

    Not before the zygote's descriptors are closed: until then, others in the sandbox could take them from us.
    """
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def bound_capabilities(kept: frozenset[int]) -> None:
    """Nothing that this process or its children execute can have any capability but these."""
    for capability in range(LAST_CAPABILITY + 1):
        if capability not in kept and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break  # beyond the last one that this kernel knows


def set_capabilities(kept: frozenset[int]) -> None:
    """Have these, and no others, permitted and effective; none inheritable."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bits = sum(1 << capability for capability in kept)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    check(libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)), "capset")


def become_user(uid: int, gid: int, groups: list[int]) -> None:
    """From the sandbox's root to one of its users, for good; root stays what it is."""
    os.setgroups(groups)
    if uid:
        bound_capabilities(frozenset())
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # which gives up every capability, unless it is root


def fresh_signals() -> None:
    """What a program expects to start with; Ray blocks SIGINT in its workers and children inherit that."""
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(signal.SIGINT, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
