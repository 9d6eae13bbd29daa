"""The definition of a template: what a sandbox looks like at birth. Values only, no effects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raybox_template.errors import InvalidSpec

_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,3})?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(\[[A-Za-z0-9,._ -]*\])?\s*==\s*[A-Za-z0-9.!+_-]+"
    r"(\s*;(?P<marker>(?:(?!--hash).)*))?"
    r"(?P<hashes>(\s+--hash=sha(256|384|512):[0-9a-f]+)+)"
)


class FrozenMap(Mapping[str, str]):
    """An immutable, hashable, picklable mapping of strings, iterated in the order of its keys."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str] | None = None) -> None:
        self._items: dict[str, str] = dict(sorted((items or {}).items()))

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a sandbox of the template gets when its creator asks for nothing else.

    cpus: CPU cores, fractions allowed. memory_mib, disk_mib: mebibytes. pids_max: processes and threads together.
    Raises InvalidSpec for anything that is not positive.
    """

    cpus: float = 1.0
    memory_mib: int = 1024
    disk_mib: int = 2048
    pids_max: int = 256

    def __post_init__(self) -> None:
        for name in ("cpus", "memory_mib", "disk_mib", "pids_max"):
            value = getattr(self, name)
            kinds = (int, float) if name == "cpus" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 2**40:
                raise InvalidSpec(f"resources.{name}", f"must be a positive number, not {value!r}")
        object.__setattr__(self, "cpus", float(self.cpus))  # 1 and 1.0 are one template


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """One template, completely.

    name: lower-case letters, digits, `-` and `_`, at most 63. It is an alias, not part of the digest.
    requirements: the text of a lock file: `name==version` pins, each with at least one `--hash`; no options, no URLs.
    python: `3.11` or `3.11.7`.
    kernel_startup: file name -> text, installed as `<env>/etc/ipython/<file name>`, which every IPython kernel reads.
    env_vars: environment variables of every process in the sandbox.
    resources: defaults for what the creator of a sandbox does not say.

    Two specs that describe the same template compare equal: comments in the lock and the order of mappings are
    dropped. Raises InvalidSpec.
    """

    name: str
    requirements: str = ""
    python: str = "3.11"
    kernel_startup: Mapping[str, str] = field(default_factory=FrozenMap)
    env_vars: Mapping[str, str] = field(default_factory=FrozenMap)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        _check("name", self.name, _NAME, "lower-case letters, digits, - and _, at most 63 characters")
        _check("python", self.python, _PYTHON, "a version such as 3.11 or 3.11.7")
        object.__setattr__(self, "requirements", "".join(f"{line}\n" for line in pins(self.requirements)))
        for label, pattern, rule in (
            ("kernel_startup", _FILE, "a plain file name"),
            ("env_vars", _VARIABLE, "the name of an environment variable"),
        ):
            mapping = getattr(self, label)
            if not isinstance(mapping, Mapping):
                raise InvalidSpec(label, f"must be a mapping, not {type(mapping).__name__}")
            for key, value in mapping.items():
                _check(f"{label} {key!r}", key, pattern, rule)
                if not isinstance(value, str) or "\0" in value or not _encodable(value):
                    raise InvalidSpec(f"{label}[{key!r}]", "must be text without NUL characters")
            object.__setattr__(self, label, FrozenMap(mapping))
        if not isinstance(self.resources, Resources):
            raise InvalidSpec("resources", f"must be Resources, not {type(self.resources).__name__}")

    def canonical(self) -> dict[str, Any]:
        """The definition as plain JSON values. `from_canonical` is its inverse."""
        return {
            "name": self.name,
            "requirements": self.requirements,
            "python": self.python,
            "kernel_startup": dict(self.kernel_startup),
            "env_vars": dict(self.env_vars),
            "resources": {name: getattr(self.resources, name) for name in Resources.__dataclass_fields__},
        }

    @classmethod
    def from_canonical(cls, plain: Mapping[str, Any]) -> TemplateSpec:
        """The spec that `canonical()` was made from. Raises InvalidSpec, also for unknown or missing keys."""
        if plain.keys() != cls.__dataclass_fields__.keys():
            raise InvalidSpec("definition", f"needs exactly the keys {', '.join(cls.__dataclass_fields__)}")
        resources = plain["resources"]
        if not isinstance(resources, Mapping) or not resources.keys() <= Resources.__dataclass_fields__.keys():
            raise InvalidSpec("resources", f"may only have the keys {', '.join(Resources.__dataclass_fields__)}")
        return cls(**{**plain, "resources": Resources(**resources)})


def pins(lock: str) -> list[str]:
    """The requirements of a lock file in its order, one string each, without comments and line continuations.

    Raises InvalidSpec for a line that is not a hashed pin: anything else would make the digest a promise that the
    environment does not keep.
    """
    if not isinstance(lock, str):
        raise InvalidSpec("requirements", f"must be text, not {type(lock).__name__}")
    kept = [line for line in lock.splitlines() if not line.lstrip().startswith("#")]
    logical = re.sub(r"\\\s*\n", " ", "\n".join(kept)).splitlines()
    found = []
    for line in logical:
        pin = " ".join(line.split())
        if not pin:
            continue
        if not _PIN.fullmatch(pin):
            raise InvalidSpec("requirements", f"not a pin with hashes: {pin[:120]!r}")
        found.append(pin)
    return found


def _check(label: str, value: object, pattern: re.Pattern[str], rule: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidSpec(label, f"must be {rule}, not {value!r}")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
