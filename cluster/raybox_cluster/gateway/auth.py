"""API keys of the control plane: held as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from raybox_actors.errors import Unauthenticated

MAX_KEY_BYTES = 256
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def new_key() -> str:
    """A random key of the shape that every client version accepts: `e2b_` and 40 hex digits."""
    return "e2b_" + secrets.token_hex(20)


def hash_key(key: str) -> str:
    """What may be stored of a key. Plain SHA-256 is enough because keys are random, not chosen by people."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """Named keys. `hashes` maps a name to `hash_key(key)`; raises ValueError for anything that is no such hash.

    With no keys at all every request is refused.
    """

    def __init__(self, hashes: Mapping[str, str]) -> None:
        for name, digest in hashes.items():
            if not _SHA256_HEX.fullmatch(digest):
                raise ValueError(f"API key {name!r}: not the hex form of a SHA-256 hash")
        self._hashes = tuple((name, bytes.fromhex(digest)) for name, digest in hashes.items())

    @classmethod
    def of(cls, **keys: str) -> ApiKeys:
        """From the keys themselves, by name: `ApiKeys.of(alice="e2b_...")`."""
        return cls({name: hash_key(key) for name, key in keys.items()})

    def __repr__(self) -> str:
        return f"ApiKeys({', '.join(name for name, _ in self._hashes)})"

    def owner_of(self, presented: bytes | None) -> str:
        """Name of the key. Raises Unauthenticated. Takes as long for a wrong key as for any right one."""
        if not presented:
            raise Unauthenticated("the header X-API-KEY is missing")
        digest = hashlib.sha256(presented[:MAX_KEY_BYTES]).digest()
        owner = None
        for name, known in self._hashes:  # no early exit: the time must not tell which key came close
            if hmac.compare_digest(digest, known):
                owner = name
        if owner is None or len(presented) > MAX_KEY_BYTES:
            raise Unauthenticated("the API key is not valid")
        return owner
