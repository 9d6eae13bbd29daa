"""Signed file URLs and access tokens of port 49983 (contract 4.2, 4.3). Pure; the time is passed in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final, Literal

from raybox_actors.errors import RayboxError

Operation = Literal["read", "write"]

UNAUTHORIZED: Final = "unauthorized access, please provide a valid access token or method signing if supported"
_EXPIRATION = re.compile(r"\d{1,15}")


class AccessDenied(RayboxError):
    """The access token or the signature is missing or wrong. HTTP 401, with a body of exactly code and message."""

    kind = "auth"
    should_mask_sample = False


def sign(path: str, operation: Operation, username: str, token: str, expiration: str | None) -> str:
    """The signature of a URL, over the literal values of its query."""
    text = f"{path}:{operation}:{username}:{token}" + ("" if expiration is None else f":{expiration}")
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return "v1_" + base64.b64encode(digest).decode("ascii").rstrip("=")


def is_signed_by(token: str, operation: Operation, query: Mapping[str, str]) -> bool:
    """Whether the query's signature was made with this token; it may have expired."""
    expected = sign(
        query.get("path", ""), operation, query.get("username", ""), token, query.get("signature_expiration")
    )
    return hmac.compare_digest(expected.encode(), query.get("signature", "").encode("utf-8", "surrogateescape"))


def check_access(token: str | None, presented: bytes | None) -> None:
    """Every route but /health and /files. A sandbox without a token is open. Raises AccessDenied."""
    if token is not None and (presented is None or not hmac.compare_digest(presented, token.encode())):
        raise AccessDenied(UNAUTHORIZED)


def check_files_access(
    token: str | None, presented: bytes | None, operation: Operation, query: Mapping[str, str], now_s: float
) -> None:
    """/files: the token, or a signature of the URL. Raises AccessDenied, in the order and words of the contract."""
    if token is None:
        return
    if presented is not None:
        if not hmac.compare_digest(presented, token.encode()):
            raise AccessDenied("access token present in header but does not match")
        return
    if not query.get("signature"):
        raise AccessDenied("missing signature query parameter")
    if not is_signed_by(token, operation, query):
        raise AccessDenied("invalid signature")
    expiration = query.get("signature_expiration")
    if expiration is not None:
        if not _EXPIRATION.fullmatch(expiration):
            raise AccessDenied("invalid signature")
        if int(expiration) < now_s:
            raise AccessDenied("signature is already expired")
