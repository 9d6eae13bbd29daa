"""What a sandbox uses: one look, and a ring of looks over time. No Ray."""

from __future__ import annotations

import os
import time
from collections import deque

from raybox_actors.isolation.cgroup import Cgroup
from raybox_actors.isolation.policy import Limits
from raybox_actors.isolation.walls import Walls
from raybox_actors.values import ResourceUsage

SAMPLE_INTERVAL_S = 5.0
#: An hour of samples; older ones are forgotten.
MAX_SAMPLES = 720


class Meter:
    """Of one sandbox. `sample` is called now and then by whoever owns it; `between` reads what was sampled."""

    def __init__(self, walls: Walls, cgroup: Cgroup | None, limits: Limits) -> None:
        self._walls, self._cgroup, self.limits = walls, cgroup, limits
        self._samples: deque[ResourceUsage] = deque(maxlen=MAX_SAMPLES)
        self._last: tuple[float, float] | None = None  #: monotonic time and cpu seconds of the look before

    def look(self) -> ResourceUsage:
        """Its usage now. Zeros for what the machine does not count, or no longer has."""
        used = self._cgroup.usage() if self._cgroup is not None else None
        now, cpu_s = time.monotonic(), used.cpu_s if used is not None else 0.0
        percent = 0.0
        if self._last is not None and now > self._last[0]:
            percent = 100.0 * max(0.0, cpu_s - self._last[1]) / (now - self._last[0])
        self._last = (now, cpu_s)
        disk_used, disk_total = self._disk()
        cores = self.limits.cpu_count
        return ResourceUsage(
            at_s=time.time(),
            cpu_count=cores,
            cpu_used_pct=min(percent, 100.0 * cores),
            memory_used_bytes=used.memory_bytes if used is not None else 0,
            memory_total_bytes=self.limits.memory_bytes,
            memory_cache_bytes=used.cache_bytes if used is not None else 0,
            disk_used_bytes=disk_used,
            disk_total_bytes=disk_total,
        )

    def _disk(self) -> tuple[int, int]:
        try:
            found = os.statvfs(f"/proc/{self._walls.first_pid}/root")
        except OSError:
            return 0, self.limits.disk_mib << 20
        return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_blocks * found.f_frsize

    def sample(self) -> ResourceUsage:
        self._samples.append(self.look())
        return self._samples[-1]

    def between(self, start_s: float | None, end_s: float | None) -> list[ResourceUsage]:
        """Samples of this span of unix time, oldest first; either end may be open."""
        return [
            one
            for one in self._samples
            if (start_s is None or one.at_s >= start_s) and (end_s is None or one.at_s <= end_s)
        ]
