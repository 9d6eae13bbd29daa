"""How whoever wants a connection to a sandbox's agent shows to its actor that it is of the same pool, and back.

Server: a nonce. Client: lengths of and the sandbox's id, a nonce, a keyed digest of all that. Server: ACCEPTED and a
digest of its own, or GONE (the sandbox is not, or no longer, in this actor), or FAILED. Who cannot make the digest is
hung up on. The key is the pool's secret; nothing that is sent tells it, and nothing can be sent again. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

NONCE_BYTES: Final = 32
DIGEST_BYTES: Final = 32
MAX_ID_BYTES: Final = 255
ACCEPTED, GONE, FAILED = b"+", b"?", b"!"
#: What the server says at the end, whatever it is.
VERDICT_BYTES: Final = 1 + DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class AgentEndpoint:
    """Where an actor takes connections: an abstract unix socket on its own node; TCP for other nodes, if they asked."""

    node_id: str
    unix_name: str
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client said."""

    sandbox_id: str
    nonce: bytes
    digest: bytes


def client_words(secret: bytes, sandbox_id: str, server_nonce: bytes, nonce: bytes) -> bytes:
    """Raises ValueError for an id that cannot be one."""
    name = sandbox_id.encode("ascii")
    if not 0 < len(name) <= MAX_ID_BYTES:
        raise ValueError("a sandbox id has 1 to 255 bytes")
    return bytes([len(name)]) + name + nonce + _digest(secret, b"client", name, server_nonce, nonce)


def rest_bytes(first: bytes) -> int:
    """How many bytes of the client's words follow its first."""
    return first[0] + NONCE_BYTES + DIGEST_BYTES


def parse(first: bytes, rest: bytes) -> Claim:
    """Raises ValueError."""
    name = rest[: first[0]].decode("ascii")
    return Claim(name, rest[first[0] : first[0] + NONCE_BYTES], rest[first[0] + NONCE_BYTES :])


def is_of_pool(secret: bytes, claim: Claim, server_nonce: bytes) -> bool:
    expected = _digest(secret, b"client", claim.sandbox_id.encode(), server_nonce, claim.nonce)
    return bool(secret) and hmac.compare_digest(claim.digest, expected)


def verdict(secret: bytes, answer: bytes, claim: Claim, server_nonce: bytes) -> bytes:
    name = claim.sandbox_id.encode()
    return answer + _digest(secret, b"server" + answer, name, server_nonce, claim.nonce)


def answer_of(secret: bytes, said: bytes, sandbox_id: str, server_nonce: bytes, nonce: bytes) -> bytes:
    """ACCEPTED, GONE or FAILED. Raises ValueError if it does not come from an actor of the pool."""
    answer = said[:1]
    expected = _digest(secret, b"server" + answer, sandbox_id.encode(), server_nonce, nonce)
    if answer not in (ACCEPTED, GONE, FAILED) or not hmac.compare_digest(said[1:], expected):
        raise ValueError("whoever answered is not of this pool")
    return answer


def _digest(secret: bytes, who: bytes, name: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    # Parts of fixed length, the name last: no two sets of parts make the same bytes.
    return hmac.digest(secret, b"raybox agent %-8b" % who + server_nonce + client_nonce + name, hashlib.sha256)
