"""Options of `raybox up`: one typed, validated value, whether they come from the command line or from a YAML file.

Every field of UpOptions is an option of the same name (`api_key` is `--api-key`, and `api-key:` or `api_key:` in the
file). What the command line says wins over the file; what neither says has the default below. No I/O but reading the
file; no Ray.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from raybox_actors.config import Placement, PoolConfig
from raybox_actors.isolation.capabilities import Require
from raybox_actors.network.resolver import MAX_UPSTREAMS
from raybox_actors.network.rules import DEFAULT_DENIED, NODE_NETWORKS, check_denied
from raybox_cluster.config_keys import DEFAULT_KEY_NAME, KEY, parse_api_keys
from raybox_cluster.gateway.auth import ApiKey, hash_key
from raybox_cluster.pool.placement import Selector, parse_selector

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
MAX_SANDBOXES = 100_000
#: Besides Python, whose kernel every warm sandbox has. TypeScript is spoken by JavaScript's.
WARM_LANGUAGES = ("javascript", "r", "bash", "java")


class OptionError(ValueError):
    """An option that cannot be meant. One line that names the option; str() is fit for a terminal."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(option, reason)
        self.option, self.reason = option, reason

    def __str__(self) -> str:
        return f"{self.option}: {self.reason}"


def option_name(field_name: str) -> str:
    """`api_key` -> `api-key`: how a field is called on the command line (behind `--`) and in the file."""
    return field_name.replace("_", "-")


def _name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ValueError("must be at most 31 lower-case letters, digits and dashes, beginning with a letter")


def _host(value: object) -> str:
    if isinstance(value, str):
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            if _HOST_NAME.fullmatch(value) and not value.replace(".", "").isdigit():
                return value
    raise ValueError("must be an IP address or a host name to listen on")


def _whole(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(f"must be a whole number from {low} to {high}")

    return check


def _amount(low: float, high: float, what: str = "a number") -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise ValueError(f"must be {what} from {low:g} to {high:g}")

    return check


def _seconds(low: float, high: float) -> Callable[[object], float]:
    return _amount(low, high, "a number of seconds")


def _optional(check: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else check(value)


def _selector(value: object) -> Selector:
    """Of the command line: text. Of the file: that, or a mapping. Of plain data: pairs."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        value = ",".join(f"{key}={condition}" for key, condition in value)
    if isinstance(value, str):
        return parse_selector(value)
    raise ValueError("must be conditions on labels, as text or as a mapping")


def _one_of(*words: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise ValueError(f"must be one of {', '.join(words)}")

    return check


def _key(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and KEY.fullmatch(value):
        return value
    raise ValueError("must be 8 to 256 printable ASCII characters without spaces")  # never quote a key


def _languages(value: object) -> tuple[str, ...]:
    """Names in a list of a file, or with commas or spaces between them."""
    names = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        found = tuple(dict.fromkeys(name for name in names if name))
        if all(name in WARM_LANGUAGES for name in found):
            return found
    raise ValueError(f"must be names out of {', '.join(WARM_LANGUAGES)}, with commas between them")


def _address(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be HOST:PORT of a Ray cluster's GCS, or auto, or local")
    value = value.strip()
    if value == "local":
        return None
    if value == "auto":
        return value
    if value.startswith("ray://"):
        raise ValueError("a Ray client address cannot host a pool; use HOST:PORT of the cluster's GCS")
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError("must be HOST:PORT of a Ray cluster's GCS, or auto, or local")
    return value


def _list(check: Callable[[list[str]], tuple[str, ...]]) -> Callable[[object], tuple[str, ...]]:
    """Of the command line: one text with commas. Of the file: that, or a list."""

    def split(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
            return check(list(value))
        raise ValueError("must be a list, or a text with commas")

    return split


def _name_servers(servers: list[str]) -> tuple[str, ...]:
    if len(servers) > MAX_UPSTREAMS:
        raise ValueError(f"must be at most {MAX_UPSTREAMS} name servers")
    try:
        return tuple(str(ipaddress.IPv4Address(server)) for server in servers)
    except ValueError:
        raise ValueError("must be IPv4 addresses of name servers") from None


def _option(default: object, check: Callable[[object], object], hint: str, value_name: str) -> Any:
    """`value_name` empty: only for the file."""
    return field(default=default, metadata={"check": check, "help": hint, "value_name": value_name})


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `raybox up` shall start. Raises OptionError for the first value that cannot be meant."""

    name: str = _option("raybox", _name, "Name of the pool; two pools of different names can run side by side.", "NAME")
    host: str = _option("127.0.0.1", _host, "Where to listen. 0.0.0.0 lets other machines in.", "HOST")
    port: int = _option(8000, _whole(0, 65_535), "Port to listen on; 0 picks a free one.", "PORT")
    api_key: str | None = _option(
        None, _key, "Key of the pool's admin, generated if not given. Others see it in `ps`: better in a file.", "KEY"
    )
    api_keys: tuple[ApiKey, ...] = _option((), parse_api_keys, "Further keys, with quotas; see docs/operations.md.", "")
    require: Require = _option(  # noqa: RUF009  # as all the others; ruff takes a Literal for mutable
        "standard",
        _one_of("standard", "strict"),
        "`strict` refuses nodes and clusters that lack any mechanism of isolation.",
        "LEVEL",
    )
    sandboxes: int = _option(
        8, _whole(1, MAX_SANDBOXES), "The most sandboxes that may live at once, over all nodes.", "N"
    )
    warm: int = _option(2, _whole(0, MAX_SANDBOXES), "How many free ones are kept ready with a kernel parked.", "N")
    min_sandboxes: int | None = _option(
        None,
        _optional(_whole(0, MAX_SANDBOXES)),
        "How many slots to keep without demand, where Ray's autoscaler adds and removes nodes; not given: all of them.",
        "N",
    )
    idle_s: float = _option(
        60.0, _seconds(0, 86_400), "How long slots above --min-sandboxes are kept that nobody needs.", "SECONDS"
    )
    placement: Placement = _option(  # noqa: RUF009  # as all the others; ruff takes a Literal for mutable
        "spread",
        _one_of("spread", "pack"),
        "`spread` sandboxes evenly over nodes, or `pack` one node after the other.",
        "POLICY",
    )
    node_labels: Selector = _option(  # noqa: RUF009  # the same of an alias
        (),
        _selector,
        "Labels of nodes that may host sandboxes, as `pool=sandbox,zone=in(a,b),gpu=!yes`; else all that have CPUs.",
        "SELECTOR",
    )
    cpu_request: float = _option(
        0.1, _amount(0, 1024), "CPUs that each sandbox asks Ray for; what it may use is --cpu.", "CPUS"
    )
    memory_request_mib: int = _option(
        256, _whole(0, 1 << 24), "Memory that each asks Ray for; what it may use is --memory-mib.", "MIB"
    )
    drain_grace_s: float = _option(
        60.0,
        _seconds(0, 86_400),
        "How long sandboxes go on on a node that is drained without a deadline; with one, until shortly before it.",
        "SECONDS",
    )
    kernel: str = _option(
        "raybox",
        _one_of("raybox", "ipykernel"),
        "Python kernel: `raybox` is forked ready to run, `ipykernel` is the stock one.",
        "KERNEL",
    )
    cpu: int = _option(1, _whole(1, 1024), "Cores that a sandbox may use, as a quota of time.", "CORES")
    memory_mib: int = _option(
        1024, _whole(64, 1 << 24), "Memory of a sandbox's processes; its files have --disk-mib more.", "MIB"
    )
    disk_mib: int = _option(1024, _whole(16, 1 << 24), "Files of a sandbox, which are in memory, too.", "MIB")
    pids_max: int = _option(512, _whole(16, 1 << 20), "Processes and threads of a sandbox.", "N")
    network: str = _option(
        "none",
        _one_of("none", "egress"),
        "What sandboxes reach: `none`, or with `egress` the internet, within the rules that each is created with.",
        "NETWORK",
    )
    network_denied_cidrs: tuple[str, ...] = _option(
        DEFAULT_DENIED,
        _list(check_denied),
        "IPv4 ranges that no sandbox reaches, with commas, in place of the private ones; this host, link-local and "
        f"metadata addresses are denied anyway. `{NODE_NETWORKS}` stands for the networks of each node.",
        "CIDRS",
    )
    network_dns: tuple[str, ...] = _option(
        (), _list(_name_servers), "Name servers that are asked for sandboxes, with commas; else each node's own.", "IPS"
    )
    warm_per_node: int = _option(
        0, _whole(0, MAX_SANDBOXES), "How many of each node's free ones are kept ready at least.", "N"
    )
    warm_languages: tuple[str, ...] = _option(
        (), _languages, "Languages besides Python whose kernels warm sandboxes have parked, too.", "NAMES"
    )
    address: str | None = _option(
        None,
        _address,
        "Ray cluster to join (HOST:PORT or auto); `local` starts one even if RAY_ADDRESS is set.",
        "ADDRESS",
    )
    gateways: int = _option(
        1, _whole(1, 256), "Gateway replicas in a cluster that is joined, behind its Serve; one's own Ray has one.", "N"
    )
    max_timeout_s: float = _option(
        86_400.0, _seconds(30, 2_592_000), "The longest timeout a caller may ask for.", "SECONDS"
    )
    admission_wait_s: float = _option(
        5.0, _seconds(0, 600), "How long a create may wait for a free sandbox when the pool is full.", "SECONDS"
    )
    max_admission_wait_s: float = _option(
        600.0, _seconds(0, 3_600), "The longest wait that a create may ask for by itself.", "SECONDS"
    )
    run_code_access: str = _option(
        "key",
        _one_of("key", "open"),
        "Who may POST /run_code: holders of an API key, or with `open` whoever reaches the port.",
        "WHO",
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            try:
                object.__setattr__(self, one.name, one.metadata["check"](getattr(self, one.name)))
            except ValueError as error:
                raise OptionError(option_name(one.name), str(error)) from None
        if self.warm > self.sandboxes:
            raise OptionError("warm", f"{self.warm} sandboxes cannot be kept ready out of {self.sandboxes}")
        if self.min_sandboxes is not None and self.min_sandboxes > self.sandboxes:
            raise OptionError("min-sandboxes", f"{self.min_sandboxes} is more than sandboxes ({self.sandboxes})")
        if self.api_key is not None and any(one.sha256 == hash_key(self.api_key) for one in self.api_keys):
            raise OptionError("api-keys", "one of them is the key of --api-key")
        if self.gateways > 1 and self.address is None:
            raise OptionError("gateways", "more than one needs a Ray cluster to join (--address)")
        if self.admission_wait_s > self.max_admission_wait_s:
            raise OptionError(
                "admission-wait-s", f"is longer than max-admission-wait-s ({self.max_admission_wait_s:g})"
            )

    def __repr__(self) -> str:
        shown = ((one.name, getattr(self, one.name)) for one in fields(self))
        return f"UpOptions({', '.join(f'{n}={v!r}' for n, v in shown if n not in ('api_key', 'api_keys'))})"

    def keys(self, api_key: str) -> tuple[ApiKey, ...]:
        """Every key of the pool; `api_key` is the one that was given, or made, for its admin."""
        return (ApiKey(DEFAULT_KEY_NAME, hash_key(api_key), admin=True), *self.api_keys)

    @property
    def url_host(self) -> str:
        """The host that a client on this machine uses: listening everywhere is reached through loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # compared, not bound
        return f"[{host}]" if ":" in host else host

    def pool(self, secret: bytes) -> PoolConfig:
        """What the actors of this pool are told."""
        return PoolConfig(
            name=self.name,
            secret=secret,
            sandboxes=self.sandboxes,
            warm=self.warm,
            warm_per_node=self.warm_per_node,
            min_sandboxes=self.min_sandboxes,
            idle_s=self.idle_s,
            placement=self.placement,
            node_labels=self.node_labels,
            cpu_request=self.cpu_request,
            memory_request_mib=self.memory_request_mib,
            drain_grace_s=self.drain_grace_s,
            kernel=self.kernel,
            cpu_count=self.cpu,
            memory_mib=self.memory_mib,
            disk_mib=self.disk_mib,
            pids_max=self.pids_max,
            require=self.require,
            network=self.network,
            network_denied_cidrs=self.network_denied_cidrs,
            network_dns=self.network_dns,
            warm_languages=self.warm_languages,
            run_dir=default_run_dir(),
            admission_wait_s=self.admission_wait_s,
            max_admission_wait_s=self.max_admission_wait_s,
            max_timeout_s=self.max_timeout_s,
            run_code_access=self.run_code_access,
        )


def default_run_dir() -> str:
    """Where sockets of the node's agents live: /run needs root; the rest of us have a folder of our own in /tmp.

    Not XDG_RUNTIME_DIR: it goes away with the last login, under a detached pool's feet.
    """
    if os.geteuid() == 0:
        return "/run/raybox"
    return f"{tempfile.gettempdir()}/raybox-{os.geteuid()}"


def resolve(
    given: Mapping[str, object], file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> UpOptions:
    """The options: `given` (by field name; None is "not given") over `file` over RAY_ADDRESS over the defaults."""
    merged: dict[str, Any] = {}
    if environment.get("RAY_ADDRESS"):
        merged["address"] = environment["RAY_ADDRESS"]
    if file is not None:
        merged |= read_file(file)
    merged |= {name: value for name, value in given.items() if value is not None}
    return UpOptions(**merged)


def read_file(path: Path) -> dict[str, object]:
    """Options of a YAML file, by field name. Raises OptionError, with the line where YAML itself is at fault."""
    import yaml

    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise OptionError(str(path), str(reason)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise OptionError(str(path), f"{where}not valid YAML: {getattr(error, 'problem', None) or error}") from None
    return {} if plain is None else of_plain(plain, str(path))


def of_plain(plain: object, source: str) -> dict[str, object]:
    """Options of a mapping as YAML gives it, by field name. Raises OptionError, which names the source. Pure."""
    if not isinstance(plain, Mapping):
        raise OptionError(source, "must be a mapping of option names to values")
    known = {one.name: one for one in fields(UpOptions)}
    found: dict[str, object] = {}
    for key, value in plain.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise OptionError(
                source, f"unknown option {str(key)!r}; the options are {', '.join(map(option_name, known))}"
            )
        if name in found:
            raise OptionError(source, f"{option_name(name)} is given twice")
        try:
            found[name] = known[name].metadata["check"](value)
        except ValueError as error:
            raise OptionError(source, f"{option_name(name)} {error}") from None
    return found


def default_of(field_name: str) -> object:
    """The default of one option, for help texts."""
    one = next(one for one in fields(UpOptions) if one.name == field_name)
    assert one.default is not MISSING
    return one.default
