"""What every actor of one pool is told at its creation. Plain values; the secret is masked in every repr."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raybox_actors.isolation.capabilities import Require
from raybox_actors.isolation.policy import Limits
from raybox_actors.network.rules import DEFAULT_DENIED

#: Where a sandbox goes when several nodes could take it: to the least used, or to the most used that has room.
Placement = Literal["spread", "pack"]
#: Ray namespace of every actor of every pool.
NAMESPACE = "raybox"


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One pool. Names of its actors start with `name`, so that two pools can share a cluster."""

    name: str = "raybox"
    secret: bytes = field(default=b"", repr=False)  #: keys the tags of sandbox ids
    template: str = "default"
    sandboxes: int = 8  #: slots over all nodes: the most sandboxes that may live at once
    min_sandboxes: int | None = None  #: so many slots are kept without demand; None: all of them
    idle_s: float = 60.0  #: slots above min_sandboxes are kept so long after they were last needed
    placement: Placement = "spread"
    node_labels: tuple[tuple[str, str], ...] = ()  #: conditions that a node must meet to host, as placement.Selector
    cpu_request: float = 0.1  #: CPUs that one sandbox asks Ray for; what it may use is `cpu_count`
    memory_request_mib: int = 256  #: the same of memory
    drain_grace_s: float = 60.0  #: sandboxes of a node that is going away, but not at a known time, end after it
    warm: int = 2  #: how many of the free ones are kept with walls up and a kernel parked
    warm_per_node: int = 0  #: the same of each node, at least
    run_dir: str = "/run/raybox"  #: sockets of a node live in <run_dir>/<name>/<node>; short, for unix socket paths
    admission_wait_s: float = 5.0  #: how long a create may wait for a slot before `capacity`
    max_admission_wait_s: float = 600.0  #: the longest that one may ask to wait
    max_timeout_s: float = 86_400.0
    memory_mib: int = 1024
    disk_mib: int = 1024
    cpu_count: int = 1
    pids_max: int = 512
    network: str = "none"  #: "egress": sandboxes reach the internet unless they are created without it
    network_denied_cidrs: tuple[str, ...] = DEFAULT_DENIED  #: that none of them reaches, beside rules.NEVER
    network_dns: tuple[str, ...] = ()  #: name servers that are asked for them; empty: each node's own
    run_code_access: str = "key"  #: "open": POST /run_code needs no API key
    kernel: str = "raybox"  #: which Python kernel: our transport, or "ipykernel" for the stock one
    warm_languages: tuple[str, ...] = ()  #: besides Python: warm sandboxes have kernels of these parked, too
    require: Require = "standard"  #: "strict": nodes that lack any mechanism of isolation get no sandboxes

    def limits(self) -> Limits:
        """The most that a sandbox of this pool gets; a template or a creator may say less."""
        return Limits(cpus=self.cpu_count, memory_mib=self.memory_mib, disk_mib=self.disk_mib, pids_max=self.pids_max)


def manager_name(config: PoolConfig) -> str:
    return f"{config.name}-manager"


def node_agent_name(config: PoolConfig, node_id: str) -> str:
    """`node_id` is Ray's, in hex; its first twelve digits tell nodes of a cluster apart."""
    return f"{config.name}-node-{node_id[:12]}"


def placement_name(config: PoolConfig, gang_id: str) -> str:
    """Of the gang's placement group, if it needs one."""
    return f"{config.name}-{gang_id}"


def front_name(config: PoolConfig, node_id: str) -> str:
    return f"{config.name}-front-{node_id[:12]}"


def sandbox_actor_name(config: PoolConfig, node_id: str, slot: int) -> str:
    return f"{config.name}-sandbox-{node_id[:12]}-{slot}"


@dataclass(frozen=True, slots=True)
class LanguageKernel:
    """How to start a kernel of one language inside the walls (raybox_template.languages.Runtime tells the terms)."""

    command: tuple[str, ...]
    protocol: Literal["frames", "jupyter"]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node agent tells the sandbox actors of its node."""

    zygote_address: str
    python: str  #: the template's interpreter
    read_only: tuple[str, ...]  #: folders of the host that sandboxes see, at their own paths
    skeleton: str  #: folder with the sandboxes' own files of /etc
    layers: bool = False  #: system folders can be made writable, as layers (isolation/layers.py)
    resources: dict[str, float] = field(default_factory=dict)  #: the template's, for policy.effective
    no_network: str = ""  #: why this node cannot give its sandboxes the network that the pool gives
    languages: dict[str, LanguageKernel] = field(default_factory=dict)  #: that are installed, besides Python
