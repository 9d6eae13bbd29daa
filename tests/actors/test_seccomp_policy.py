"""The system call filter as a pure function: every number of every architecture is decided as its group says."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_actors.isolation.seccomp_policy import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    ALLOW,
    ARCHITECTURES,
    CLONE_NEW_ANY,
    EPERM,
    GROUPS,
    KILL,
    PERSONALITIES,
    PROTOCOLS,
    RULES,
    X32_BIT,
    build,
    fails,
)
from raybox_actors.isolation.syscall_numbers import NUMBERS
from tests.security.bpf import decide

MACHINES = sorted(ARCHITECTURES)
PROGRAMS = {machine: build(machine) for machine in MACHINES}
words = st.integers(0, 2**32 - 1)
arguments = st.tuples(*[st.integers(0, 2**64 - 1)] * 6)


def decision(name: str, *values: int, machine: str = "x86_64") -> int:
    return decide(PROGRAMS[machine], NUMBERS[machine][name], ARCHITECTURES[machine], values)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_is_decided_as_its_group_says(machine: str) -> None:
    numbers = NUMBERS[machine]
    for group in GROUPS:
        for name in group.calls.split():
            if name in numbers:
                assert decision(name, machine=machine) == group.action, (group.name, name)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_kernel_takes_the_program(machine: str) -> None:
    assert len(PROGRAMS[machine]) % 8 == 0
    assert len(PROGRAMS[machine]) // 8 <= 4096


def test_no_call_is_in_two_groups_and_every_group_says_why() -> None:
    named = [name for group in GROUPS for name in group.calls.split()]
    assert len(named) == len(set(named))
    assert not set(named) & set(RULES)
    assert not [name for name in named if name not in NUMBERS["x86_64"] and name not in NUMBERS["aarch64"]]
    assert all(group.why for group in GROUPS)


def test_only_known_architectures_have_a_program() -> None:
    with pytest.raises(KeyError):
        build("s390x")


@pytest.mark.parametrize("machine", MACHINES)
@given(number=words, architecture=words, values=arguments)
def test_calls_of_another_architecture_end_the_process(
    machine: str, number: int, architecture: int, values: tuple[int, ...]
) -> None:
    if architecture != ARCHITECTURES[machine]:
        assert decide(PROGRAMS[machine], number, architecture, values) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@given(number=words, values=arguments)
def test_what_is_not_known_is_never_allowed(machine: str, number: int, values: tuple[int, ...]) -> None:
    if number not in NUMBERS[machine].values():
        found = decide(PROGRAMS[machine], number, ARCHITECTURES[machine], values)
        assert found in (KILL, fails(errno.ENOSYS))
        assert (found == KILL) == (X32_BIT <= number < 2**32 - 1)


@given(flags=st.integers(0, 2**64 - 1))
def test_clone_makes_threads_and_processes_but_no_namespaces(flags: int) -> None:
    assert decision("clone", flags) == (EPERM if flags & CLONE_NEW_ANY else ALLOW)


@given(flags=words)
def test_unshare_makes_no_namespaces(flags: int) -> None:
    assert decision("unshare", flags) == (EPERM if flags & (CLONE_NEW_ANY | 0x80) else ALLOW)


@given(family=st.integers(0, 60), kind=words, protocol=st.integers(0, 300), above=st.integers(0, 2**32 - 1))
def test_sockets_are_of_known_families_and_protocols(family: int, kind: int, protocol: int, above: int) -> None:
    fine = (
        family == AF_UNIX
        or (family == AF_NETLINK and protocol == 0)
        or (family in (AF_INET, AF_INET6) and protocol in PROTOCOLS)
    )
    # The kernel looks at the low half of each argument, and so must the filter.
    found = decision("socket", above << 32 | family, kind, above << 32 | protocol)
    assert found == (ALLOW if fine else fails(errno.EAFNOSUPPORT))


@given(value=words)
def test_personality_keeps_the_protections_of_memory(value: int) -> None:
    assert decision("personality", value) == (ALLOW if value in PERSONALITIES else EPERM)


@given(command=words)
def test_terminals_cannot_be_typed_into(command: int) -> None:
    assert decision("ioctl", 0, command) == (EPERM if command in (0x5412, 0x541C, 0x5423) else ALLOW)
