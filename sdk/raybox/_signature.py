"""Signed URLs of files, which work without the sandbox's token. No I/O."""

from __future__ import annotations

import base64
from typing import Literal
from urllib.parse import quote, urlencode

from ._errors import InvalidArgumentException


def sign(path: str, operation: Literal["read", "write"], user: str, token: str, expires_unix_s: int | None) -> str:
    """What proves that whoever made the URL knew the token; `user` is empty for the default one."""
    import hashlib  # it brings OpenSSL, which nothing else needs before the first request

    signed = f"{path}:{operation}:{user}:{token}" + ("" if expires_unix_s is None else f":{expires_unix_s}")
    digest = hashlib.sha256(signed.encode()).digest()
    return "v1_" + base64.b64encode(digest).decode("ascii").rstrip("=")


def file_url(
    base_url: str,
    path: str,
    operation: Literal["read", "write"],
    user: str | None,
    token: str | None,
    expires_unix_s: int | None,
) -> str:
    """The URL of a file; signed if the sandbox has a token. Raises InvalidArgumentException: no token, but an end."""
    query = {"path": path} if path else {}
    if user:
        query["username"] = user
    if token:
        query["signature"] = sign(path, operation, user or "", token, expires_unix_s)
        if expires_unix_s is not None:
            query["signature_expiration"] = str(expires_unix_s)
    elif expires_unix_s is not None:
        raise InvalidArgumentException("a URL can only expire when it is signed, and this sandbox has no token")
    return f"{base_url}/files?{urlencode(query, quote_via=quote, safe='')}"
