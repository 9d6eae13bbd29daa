"""Port 49983, the sandbox's agent. For now it only says whether the sandbox lives."""

from __future__ import annotations

from starlette.responses import Response

from .errors import NotAvailable, framework_response

#: The agent's own housekeeping, which nobody outside the sandbox's host may call (contract 4.1).
INTERNAL_PATHS = frozenset(("/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"))


def envd(method: str, path: str) -> Response:
    """The answer of a sandbox that lives. Raises NotAvailable."""
    if path == "/health" and method in ("GET", "HEAD"):
        return Response(status_code=204)
    if path in INTERNAL_PATHS:
        return framework_response(404, "Not Found")
    raise NotAvailable("files and processes are not available in this version")
