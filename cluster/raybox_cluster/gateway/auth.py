"""API keys of the control plane: held as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from raybox_actors.errors import Unauthenticated
from raybox_actors.values import Quota

MAX_KEY_BYTES = 256
#: Where the gateway puts the key of who asks, before any route is looked for.
KEY_IN_SCOPE: Final = "raybox.key"
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def new_key() -> str:
    """A random key of the shape that every client version accepts: `e2b_` and 40 hex digits."""
    return "e2b_" + secrets.token_hex(20)


def hash_key(key: str) -> str:
    """What may be stored of a key. Plain SHA-256 is enough because keys are random, not chosen by people."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_key_hash(text: str) -> bool:
    return _SHA256_HEX.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without the key. Raises ValueError for a `sha256` that is no `hash_key(...)`.

    admin: reaches every sandbox of the pool and its status; others reach the sandboxes that they created.
    weight: its share of the slots, beside those of other keys that wait for some, too.
    """

    name: str
    sha256: str
    admin: bool = False
    quota: Quota | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not is_key_hash(self.sha256):
            raise ValueError(f"API key {self.name!r}: not the hex form of a SHA-256 hash")

    def may_reach(self, owner: str) -> bool:
        """Whether sandboxes of `owner` exist for this key."""
        return self.admin or self.name == owner


def key_of(scope: Mapping[str, Any]) -> ApiKey:
    """Who asks, on the control plane."""
    key: ApiKey = scope[KEY_IN_SCOPE]
    return key


def bearer_token(authorization: bytes | None) -> bytes | None:
    """Of the header Authorization; None if it is of another kind."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


#: Who asks over Ray without a key. They have joined the cluster, so they are trusted with all of it.
KEYLESS_OWNER: Final = "ray"
#: Who asks for /run_code without a key, where that is allowed. Nobody can present it.
OPEN_RUN_CODE = ApiKey("run-code", hash_key(secrets.token_hex()))


class ApiKeys:
    """The keys of a pool. With no keys at all every request is refused, unless `keyless` says who asks without one."""

    def __init__(self, keys: Iterable[ApiKey], *, keyless: ApiKey | None = None) -> None:
        self._keyless = keyless
        self._keys = tuple((key, bytes.fromhex(key.sha256)) for key in keys)

    @classmethod
    def of(cls, **keys: str) -> ApiKeys:
        """From the keys themselves, by name, as admins: `ApiKeys.of(alice="e2b_...")`."""
        return cls(ApiKey(name, hash_key(key), admin=True) for name, key in keys.items())

    def __repr__(self) -> str:
        return f"ApiKeys({', '.join(key.name for key, _ in self._keys)})"

    def identify(self, presented: bytes | None) -> ApiKey:
        """Raises Unauthenticated. Takes as long for a wrong key as for any right one."""
        if presented is None and self._keyless is not None:
            return self._keyless
        if not presented:
            raise Unauthenticated("the header X-API-KEY is missing")
        digest = hashlib.sha256(presented[:MAX_KEY_BYTES]).digest()
        found = None
        for key, known in self._keys:  # no early exit: the time must not tell which key came close
            if hmac.compare_digest(digest, known):
                found = key
        if found is None or len(presented) > MAX_KEY_BYTES:
            raise Unauthenticated("the API key is not valid")
        return found
