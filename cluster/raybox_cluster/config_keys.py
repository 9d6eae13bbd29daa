"""`api_keys` of the YAML file of `raybox up`: names, keys or their hashes, quotas. Pure.

Keys are hashed as they are read; what this returns holds none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from raybox_actors.values import Quota
from raybox_cluster.gateway.auth import KEYLESS_OWNER, OPEN_RUN_CODE, ApiKey, hash_key, is_key_hash

#: Name of the key that `--api-key` gives and that `raybox up` makes if it is not given: an admin without quota.
DEFAULT_KEY_NAME: Final = "default"
MAX_KEYS: Final = 1_000
MAX_QUOTA: Final = 1_000_000_000
MIN_WEIGHT: Final = 0.001
MAX_WEIGHT: Final = 1_000.0
KEY: Final = re.compile(r"[!-~]{8,256}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
#: What is theirs would be the key's, too.
_TAKEN: Final = {
    DEFAULT_KEY_NAME: "--api-key",
    KEYLESS_OWNER: "callers over Ray without a key",
    OPEN_RUN_CODE.name: "callers of /run_code without a key",
}
_FIELDS: Final = ("name", "key", "sha256", "admin", "sandboxes", "cpu", "memory_mib", "weight")


def parse_api_keys(value: object) -> tuple[ApiKey, ...]:
    """Raises ValueError, whose text names the entry and never quotes a key. Takes its own result as plain data, too."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of keys, each with name and key or sha256")
    if len(value) > MAX_KEYS:
        raise ValueError(f"has more than {MAX_KEYS} keys")
    keys = tuple(one if isinstance(one, ApiKey) else _parse(number, one) for number, one in enumerate(value, 1))
    names, hashes = [one.name for one in keys], [one.sha256 for one in keys]
    for one in keys:
        if names.count(one.name) > 1:
            raise ValueError(f"the name {one.name} is given twice")
        if hashes.count(one.sha256) > 1:
            raise ValueError(f"the key of {one.name} is given twice")
    return keys


def _parse(number: int, entry: object) -> ApiKey:
    if not isinstance(entry, Mapping):
        raise ValueError(f"entry {number} must have name and key or sha256")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"entry {number}: name must be 1 to 63 letters, digits and . _ @ -")
    if name in _TAKEN:
        raise ValueError(f"the name {name} is that of {_TAKEN[name]}")
    plain = {str(field).replace("-", "_"): one for field, one in entry.items()}
    if unknown := sorted(plain.keys() - {*_FIELDS, "quota"}):
        raise ValueError(f"{name}: unknown field {unknown[0][:64]!r}; the fields are {', '.join(_FIELDS)}")
    key, sha256, admin = plain.get("key"), plain.get("sha256"), plain.get("admin", False)
    if (key is None) == (sha256 is None):
        raise ValueError(f"{name}: give either key or sha256")
    if key is not None:
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"{name}: key must be 8 to 256 printable ASCII characters without spaces")
        sha256 = hash_key(key)
    if not isinstance(sha256, str) or not is_key_hash(sha256):
        raise ValueError(f"{name}: sha256 must be 64 lower-case hex digits; `raybox key` prints them")
    if not isinstance(admin, bool):
        raise ValueError(f"{name}: admin must be true or false")
    weight = plain.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise ValueError(f"{name}: weight must be a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}")
    return ApiKey(name, sha256, admin, _quota(name, plain), float(weight))


def _quota(name: str, plain: dict[str, object]) -> Quota | None:
    nested = plain.get("quota")  # how an ApiKey looks as plain data
    given = {
        field: nested.get(field) if isinstance(nested, Mapping) else plain.get(field)
        for field in ("sandboxes", "cpu", "memory_mib")
    }
    for field, value in given.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = whole or (field == "cpu" and isinstance(value, float))
        if value is not None and not (fits and 0 <= value <= MAX_QUOTA):  # type: ignore[operator]  # a number
            raise ValueError(f"{name}: {field} must be a number from 0 to {MAX_QUOTA}")
    if all(value is None for value in given.values()):
        return None
    return Quota(**given)  # type: ignore[arg-type]  # checked above
