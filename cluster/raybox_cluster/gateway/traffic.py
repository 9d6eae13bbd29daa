"""What the gateway remembers of sandboxes that it has seen: their tokens (contract 4.1, 4.2), and whose they are."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from typing import NamedTuple

from raybox_actors.errors import NotFound
from raybox_actors.values import SandboxInfo

from .auth import ApiKey
from .backend import Backend
from .errors import Forbidden

MAX_REMEMBERED = 16_384
_SECURED = "Sandbox is secured with traffic access token."


class _Known(NamedTuple):
    traffic_token: str | None
    owner: str
    envd_token: str | None


class TrafficTokens:
    """Remembers which tokens each sandbox wants and who created it, so that the hot path need not ask its actor.

    Only a cache, and one that cannot go stale: neither ever changes, and the id of an ended sandbox never comes back.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def remember(self, info: SandboxInfo) -> None:
        self._known[info.sandbox_id] = _Known(info.traffic_access_token, info.owner, info.envd_access_token)
        self._known.move_to_end(info.sandbox_id)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    async def check(self, sandbox_id: str, presented: bytes | None) -> None:
        """Raises Forbidden, and what `Backend.info` raises if the sandbox is not known here yet."""
        wanted = (await self._look(sandbox_id)).traffic_token
        if wanted is None:
            return
        if presented is None:
            raise Forbidden(f"{_SECURED} Token header 'e2b-traffic-access-token' is missing")
        if not hmac.compare_digest(presented, wanted.encode()):
            raise Forbidden(f"{_SECURED} Provided token in header 'e2b-traffic-access-token' is invalid")

    async def require_reach(self, key: ApiKey, sandbox_id: str) -> None:
        """Raises NotFound if the sandbox is none of the key's, as if there were none; and what `Backend.info` raises if
        the sandbox is not known here yet. An admin's keys cost nothing."""
        if not key.admin and not key.may_reach((await self._look(sandbox_id)).owner):
            raise NotFound("sandbox", sandbox_id)

    async def envd_token(self, sandbox_id: str) -> str | None:
        """Raises what `Backend.info` raises if the sandbox is not known here yet."""
        return (await self._look(sandbox_id)).envd_token

    def envd_tokens(self) -> list[tuple[str, str | None]]:
        """Of the sandboxes that are known here; some of them may be gone."""
        return [(sandbox_id, known.envd_token) for sandbox_id, known in self._known.items()]

    async def _look(self, sandbox_id: str) -> _Known:
        known = self._known.get(sandbox_id)
        if known is None:
            self.remember(await self._backend.info(sandbox_id))
            known = self._known[sandbox_id]
        return known
