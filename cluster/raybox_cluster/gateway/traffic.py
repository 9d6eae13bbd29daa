"""Traffic tokens (contract 4.1): who may use the ports of a sandbox that was created without public traffic."""

from __future__ import annotations

import hmac
from collections import OrderedDict

from raybox_actors.values import SandboxInfo

from .backend import Backend
from .errors import Forbidden

MAX_REMEMBERED = 16_384
_SECURED = "Sandbox is secured with traffic access token."


class TrafficTokens:
    """Remembers which token each sandbox wants, so that the hot path need not ask its actor.

    Only a cache, and one that cannot go stale: a token never changes, and the id of an ended sandbox never comes back.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tokens: OrderedDict[str, str | None] = OrderedDict()

    def remember(self, info: SandboxInfo) -> None:
        self._tokens[info.sandbox_id] = info.traffic_access_token
        self._tokens.move_to_end(info.sandbox_id)
        if len(self._tokens) > MAX_REMEMBERED:
            self._tokens.popitem(last=False)

    async def check(self, sandbox_id: str, presented: bytes | None) -> None:
        """Raises Forbidden, and what `Backend.info` raises if the sandbox is not known here yet."""
        try:
            wanted = self._tokens[sandbox_id]
        except KeyError:
            info = await self._backend.info(sandbox_id)
            self.remember(info)
            wanted = info.traffic_access_token
        if wanted is None:
            return
        if presented is None:
            raise Forbidden(f"{_SECURED} Token header 'e2b-traffic-access-token' is missing")
        if not hmac.compare_digest(presented, wanted.encode()):
            raise Forbidden(f"{_SECURED} Provided token in header 'e2b-traffic-access-token' is invalid")
