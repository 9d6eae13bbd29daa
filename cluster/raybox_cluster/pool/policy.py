"""How much at once, how soon again: the numbers and small decisions of the pool, without state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Every default is a guess made on two cores, except that refilling at full speed is known to cost running
    sandboxes their latency."""

    starts_per_node: int = 2  #: actors starting at once; each costs about one CPU second
    prepares_per_node: int = 2  #: walls being built at once
    prepares_per_busy_node: int = 1  #: the same while executions run on the node
    busy_pause_s: float = 0.1  #: between two prepares on a busy node
    claim_pause_s: float = 0.1  #: between a claim and the first prepare after it, on the claimed sandbox's node
    backoff_first_s: float = 0.25  #: after a failure, doubled by every further one
    backoff_most_s: float = 30.0
    claim_attempts: int = 4  #: slots on which a claim may break before it is given up
    claims_waiting_most: int = 4096  #: beyond them, who has most in line for its weight loses its last at once
    claims_waiting_per_key_most: int = 1024  #: further ones are rejected at once
    over_quota_wait_s: float = 0.5  #: in which the end of a sandbox that makes room must have been heard of
    over_quota_waiting_most: int = 64  #: claims of one key; further ones are refused at once
    drain_margin_s: float = 5.0  #: before a node's end, for cleaning up after its sandboxes
    retry_soon_s: float = 1.0  #: nobody is told to come back earlier
    retry_late_s: float = 5.0  #: told when nothing is known of slots that will come free
    retry_most_s: float = 60.0  #: nobody is told to come back later
    outlook_kept_s: float = 0.25  #: for which deadlines and so on are not looked through again
    freed_remembered: int = 64  #: how many slots that came free tell the rate

    def backoff_s(self, failures: int) -> float:
        """Wait after the `failures`-th failure in a row (1-based)."""
        return min(self.backoff_most_s, self.backoff_first_s * 2.0 ** min(failures - 1, 16))

    def drain_at_s(self, deadline_unix_s: float, grace_s: float, now_s: float, now_unix_s: float) -> float:
        """When the sandboxes of a node end that Ray ends at a deadline (0: some time), on the clock of now_s."""
        if deadline_unix_s <= 0:
            return now_s + grace_s
        return now_s + max(0.0, deadline_unix_s - now_unix_s - self.drain_margin_s)

    def prepares_allowed(self, executions: int) -> int:
        """How many walls may be built at once on a node that runs so many executions. At least one, so that a pool
        that is always busy still refills."""
        return self.prepares_per_node if executions == 0 else min(self.prepares_per_busy_node, self.prepares_per_node)

    def retry_after_s(self, free_in_s: float | None) -> float:
        """What a caller who got nothing is told, of a forecast."""
        if free_in_s is None:
            return self.retry_late_s
        return min(self.retry_most_s, max(self.retry_soon_s, free_in_s))
