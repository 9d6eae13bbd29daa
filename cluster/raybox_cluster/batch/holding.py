"""How long a batch has its sandboxes. Pure: moments are passed in.

Sandboxes live for a short time only, which is renewed while the batch has a use for them: should whoever serves it
vanish, their slots are free again soon. How many items run in between does not matter.
"""

from __future__ import annotations

#: A sandbox lives for so long after it was made or renewed, whatever runs in it. Every pool allows
#: that: `max-timeout-s` is more.
LEASE_S = 20.0
#: It is renewed when the last time is so long ago; a renewal that fails can be repeated twice.
RENEW_S = 5.0
#: One that nothing is to do for is not renewed any more after this.
IDLE_S = 60.0


class Hold:
    """What a batch knows of one of its sandboxes. idle_since_s: None while an item runs in it."""

    def __init__(self, sandbox_id: str, now_s: float) -> None:
        """It was made just now."""
        self.sandbox_id = sandbox_id
        self.renewed_at_s = now_s
        self.idle_since_s: float | None = now_s

    def is_usable(self, now_s: float) -> bool:
        """An item can begin in it: there is time for a renewal."""
        return now_s - self.renewed_at_s < LEASE_S - RENEW_S

    def is_due(self, now_s: float) -> bool:
        """It is to be renewed."""
        if self.idle_since_s is not None and now_s - self.idle_since_s >= IDLE_S:
            return False
        return RENEW_S <= now_s - self.renewed_at_s < LEASE_S
