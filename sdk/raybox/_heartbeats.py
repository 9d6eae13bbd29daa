"""Signs of life of this process for what it leases over HTTP: one thread for all of it, also for the asyncio classes.

A thread, so that a busy event loop does not look like a dead process. Code that holds the interpreter for seconds does:
who cannot avoid that leases with `owner="none"`, and renews. Over Ray there are no heartbeats: Ray knows who lives.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from . import _requests, _transport
from ._config import ConnectionConfig
from ._errors import AuthenticationException, RayboxError
from ._responses import parsed

#: The pool takes a process that has been silent for eight seconds for dead.
INTERVAL_S = 2.0
#: What one of them may take.
BEAT_TIMEOUT_S = 5.0


@dataclass
class _Pool:
    """A pool that this process has leases of."""

    config: ConnectionConfig
    ttl_s: float
    heard_s: float  #: when it last answered
    additions: int = 0  #: a lease that comes while a heartbeat is under way is not in its answer


class Heartbeats:
    """Sends them for as long as the pool says that there are leases, or until they must have expired."""

    def __init__(self) -> None:
        self.process_id = os.urandom(16).hex()  # uuid takes longer to import than all that is here
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str | None], _Pool] = {}
        self._runs = False

    def add(self, config: ConnectionConfig, ttl_s: float) -> None:
        """A lease has been got from this pool."""
        key = (config.api_url, config.api_key)
        with self._lock:
            pool = self._pools.setdefault(key, _Pool(config, ttl_s, time.monotonic()))
            pool.ttl_s, pool.additions = max(pool.ttl_s, ttl_s), pool.additions + 1
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="raybox-heartbeats", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._pools:
                    self._runs = False
                    return
                pools = list(self._pools.items())
            began_s = time.monotonic()
            for key, pool in pools:
                additions = pool.additions
                if self._beat(pool):
                    continue
                with self._lock:
                    if pool.additions == additions:
                        del self._pools[key]
            time.sleep(max(0.0, began_s + INTERVAL_S - time.monotonic()))

    def _beat(self, pool: _Pool) -> bool:
        """Whether there is still something to live for."""
        config = pool.config.with_options({"request_timeout": BEAT_TIMEOUT_S, "retries": 0})
        request = _requests.heartbeat(config, self.process_id)
        try:
            leases = parsed(request, _transport.send(request))["leases"]
        except AuthenticationException:
            return False
        except (RayboxError, KeyError, TypeError):
            return time.monotonic() < pool.heard_s + pool.ttl_s
        pool.heard_s = time.monotonic()
        return bool(leases)


HEARTBEATS = Heartbeats()


def _begin_anew() -> None:
    """A forked child is another process: what its parent leases is not its own."""
    HEARTBEATS.__init__()  # type: ignore[misc]  # in place: whoever has it keeps it


os.register_at_fork(after_in_child=_begin_anew)
