"""Which system calls code in a sandbox may make: an allow-list in groups, each with its reason, and the BPF program.

The program is loaded by pid 1 (bubblewrap), by every kernel and by the agent, and what they start inherits it. Pure:
`build` turns the groups into the bytes that guest/seccomp.py loads.

What no group names is a call that this table does not know yet: it fails with ENOSYS, so that newer libraries fall back
as they do on an older kernel.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from raybox_actors.isolation.syscall_numbers import NUMBERS

#: What the kernel calls each architecture in `seccomp_data.arch` (linux/audit.h).
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: On x86_64, numbers from here on are the x32 ABI's.
X32_BIT = 0x40000000
NO_CALL = 0xFFFFFFFF  #: what a tracer sets to skip a call

RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LD_WORD, AND, JEQ, JGE, JUMP, RET = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06
OFFSET_NUMBER, OFFSET_ARCHITECTURE, OFFSET_ARGUMENTS = 0, 4, 16

ALLOW, KILL = RET_ALLOW, RET_KILL_PROCESS
ALL_BITS = 0xFFFFFFFF


def fails(number: int) -> int:
    """The action by which a call fails with this errno; 0 makes it succeed without doing anything."""
    return RET_ERRNO | number


@dataclass(frozen=True, slots=True)
class Condition:
    """`argument & mask == value`, of the low 32 bits: no call below takes more of the argument that is tested."""

    argument: int
    value: int
    mask: int = ALL_BITS


#: Clauses in order; the first whose conditions all hold decides, else `otherwise`.
@dataclass(frozen=True, slots=True)
class Rule:
    clauses: tuple[tuple[tuple[Condition, ...], int], ...]
    otherwise: int


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    why: str
    action: int
    calls: str


EPERM = fails(errno.EPERM)
GROUPS = (
    Group(
        "files", "What any program does with files; permissions and mounts decide which.", ALLOW,
        "access chdir chmod chown close close_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate "
        "fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr "
        "fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat "
        "inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr "
        "listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open "
        "openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv "
        "removexattr removexattrat rename renameat renameat2 rmdir setxattr setxattrat stat statfs statx symlink "
        "symlinkat sync_file_range syncfs truncate umask unlink unlinkat utime utimensat utimes write writev "
        "cachestat copy_file_range sendfile splice tee vmsplice chroot",
    ),
    Group(
        "memory", "Own memory only; the cgroup bounds how much.", ALLOW,
        "brk get_mempolicy madvise map_shadow_stack mbind membarrier memfd_create mincore mlock mlock2 mlockall "
        "mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect "
        "remap_file_pages set_mempolicy set_mempolicy_home_node",
    ),
    Group(
        "processes", "Own processes: the pid namespace shows no others, the cgroup bounds how many.", ALLOW,
        "arch_prctl execve execveat exit exit_group fork vfork get_robust_list set_robust_list get_thread_area "
        "getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set "
        "kill pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq sched_get_priority_max "
        "sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler "
        "sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield "
        "set_tid_address setpgid setpriority setrlimit setsid tgkill tkill times uname wait4 waitid process_madvise "
        "process_mrelease sysinfo",
    ),
    Group(
        "identity", "Ids and capabilities of the sandbox's own user namespace.", ALLOW,
        "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid "
        "setgroups setregid setresgid setresuid setreuid setuid",
    ),
    Group(
        "debugging", "Debuggers and profilers work on the sandbox's own processes, and the pid namespace has no "
        "others; since Linux 4.8 a tracer cannot get a call past its filter.", ALLOW,
        "ptrace process_vm_readv process_vm_writev pidfd_getfd",
    ),
    Group(
        "signals, time, waiting", "Nothing but the caller's own.", ALLOW,
        "alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_ctl_old "
        "epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 futex futex_requeue futex_wait "
        "futex_waitv futex_wake getitimer getrandom gettimeofday nanosleep pause pipe pipe2 poll ppoll pselect6 "
        "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
        "rt_tgsigqueueinfo select setitimer sigaltstack signalfd signalfd4 time timer_create timer_delete "
        "timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime",
    ),
    Group(
        "sockets", "The network namespace has what the policy grants; `socket` below decides which kinds there are.",
        ALLOW,
        "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg "
        "sendmsg sendto setsockopt shutdown",
    ),
    Group(
        "inter-process communication", "Of the sandbox's own ipc namespace, in the memory of its cgroup.", ALLOW,
        "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl "
        "semget semop semtimedop shmat shmctl shmdt shmget",
    ),
    Group(
        "more walls", "A program may lock itself in further.", ALLOW,
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    ),
    Group(
        "flush", "Would write out the host's disks; what a sandbox writes is in memory: done already.", fails(0),
        "sync",
    ),
    Group(
        "processes, the new way", "Its flags lie in memory, where no filter can look; with ENOSYS libraries use clone.",
        fails(errno.ENOSYS), "clone3",
    ),
    Group(
        "namespaces and mounts", "What a sandbox is made of; most escapes begin with a namespace of one's own.",
        EPERM,
        "setns mount umount2 pivot_root move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick "
        "mount_setattr statmount listmount",
    ),
    Group(
        "kernel machinery", "Wide interfaces with a record of holes, which hardly any program needs.", EPERM,
        "bpf perf_event_open io_uring_setup io_uring_enter io_uring_register userfaultfd fanotify_init "
        "fanotify_mark io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents memfd_secret modify_ldt "
        "kcmp move_pages migrate_pages uselib vhangup lookup_dcookie quotactl quotactl_fd acct lsm_get_self_attr "
        "lsm_set_self_attr lsm_list_modules set_thread_area uretprobe file_getattr file_setattr",
    ),
    Group("keyrings", "They are not namespaced by sandbox in every kernel.", EPERM, "add_key keyctl request_key"),
    Group(
        "files by handle", "A handle names any file of a file system, mounted here or not.", EPERM,
        "open_by_handle_at name_to_handle_at",
    ),
    Group(
        "the machine's own", "Clock, name, log and ports belong to the host.", EPERM,
        "adjtimex clock_adjtime clock_settime settimeofday sethostname setdomainname syslog iopl ioperm sysfs ustat "
        "_sysctl swapon swapoff",
    ),
    Group(
        "taking over the machine", "Nobody has a reason to try but an attacker: the process ends.", KILL,
        "init_module finit_module delete_module create_module kexec_load kexec_file_load reboot",
    ),
)  # fmt: skip

CLONE_NEW_ANY = 0x7E020000  #: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
CLONE_NEWTIME = 0x80
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
#: The others load modules of the host's kernel on first use: SCTP, DCCP, L2TP and more.
PROTOCOLS = (0, 1, 6, 17, 58)
NETLINK_ROUTE = 0
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)  #: as programs for older systems and debuggers set it
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423

RULES: dict[str, Rule] = {
    # Threads and processes yes, namespaces no.
    "clone": Rule((((Condition(0, 0, CLONE_NEW_ANY),), ALLOW),), EPERM),
    "unshare": Rule((((Condition(0, 0, CLONE_NEW_ANY | CLONE_NEWTIME),), ALLOW),), EPERM),
    "socket": Rule(
        (
            ((Condition(0, AF_UNIX),), ALLOW),
            ((Condition(0, AF_NETLINK), Condition(2, NETLINK_ROUTE)), ALLOW),  # how libc lists interfaces
            *(
                ((Condition(0, family), Condition(2, protocol)), ALLOW)
                for family in (AF_INET, AF_INET6)
                for protocol in PROTOCOLS
            ),
        ),
        fails(errno.EAFNOSUPPORT),
    ),
    "socketpair": Rule((((Condition(0, AF_UNIX),), ALLOW),), fails(errno.EAFNOSUPPORT)),
    # Others switch off protections of the memory layout.
    "personality": Rule(tuple(((Condition(0, value),), ALLOW) for value in PERSONALITIES), EPERM),
    # Typing into another's terminal; line disciplines load modules.
    "ioctl": Rule(tuple(((Condition(1, value),), EPERM) for value in (TIOCSTI, TIOCLINUX, TIOCSETD)), ALLOW),
}


def decisions(machine: str) -> dict[int, int | Rule]:
    """Number of every known call -> action or rule."""
    numbers = NUMBERS[machine]
    found: dict[int, int | Rule] = {}
    for group in GROUPS:
        for name in group.calls.split():
            if name in numbers:
                found[numbers[name]] = group.action
    for name, rule in RULES.items():
        if name in numbers:
            found[numbers[name]] = rule
    return found


def build(machine: str) -> bytes:
    """The program for this machine (platform.machine()): `struct sock_filter` after another, 8 bytes each.

    Raises KeyError for an architecture that it has no numbers of.
    """
    numbers = decisions(machine)
    unknown = fails(errno.ENOSYS)
    ranges: list[tuple[int, int | Rule]] = []
    for number in range(max(numbers) + 2):
        decision = numbers.get(number, unknown)
        if not ranges or ranges[-1][1] != decision:
            ranges.append((number, decision))
    ranges += [(X32_BIT, KILL), (NO_CALL, unknown)]
    code = [
        (LD_WORD, 0, 0, OFFSET_ARCHITECTURE),
        (JEQ, 1, 0, ARCHITECTURES[machine]),
        (RET, 0, 0, KILL),  # the i386 calls of an x86_64 kernel, above all
        (LD_WORD, 0, 0, OFFSET_NUMBER),
        *_search(ranges),
    ]
    return b"".join(struct.pack("=HBBI", *one) for one in code)


_Code = list[tuple[int, int, int, int]]


def _search(ranges: list[tuple[int, int | Rule]]) -> _Code:
    """A binary search for the last range that begins at or before the number."""
    if len(ranges) == 1:
        return _decide(ranges[0][1])
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    start = ranges[middle][0]
    if len(low) < 256:
        return [(JGE, len(low), 0, start), *low, *high]
    return [(JGE, 0, 1, start), (JUMP, 0, 0, len(low)), *low, *high]


def _decide(decision: int | Rule) -> _Code:
    if isinstance(decision, int):
        return [(RET, 0, 0, decision)]
    code: _Code = []
    for conditions, action in decision.clauses:
        clause: _Code = [(RET, 0, 0, action)]
        for condition in reversed(conditions):
            test: _Code = [(LD_WORD, 0, 0, OFFSET_ARGUMENTS + 8 * condition.argument)]
            if condition.mask != ALL_BITS:
                test.append((AND, 0, 0, condition.mask))
            clause = [*test, (JEQ, 0, len(clause), condition.value), *clause]
        code += clause
    return [*code, (RET, 0, 0, decision.otherwise)]
