"""Owners of leases, as programs of their own: one over HTTP, one a Ray job. They say what they have, and wait."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import raybox


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def over_http() -> None:
    lease = raybox.connect().lease("trajectory", ttl_s=600)
    lease.sandbox.run_code("turns = 1")
    say(sandbox_id=lease.sandbox.sandbox_id, created=lease.created)
    sys.stdin.readline()


def over_ray() -> None:
    import ray

    ray.init(log_to_driver=False, logging_level=logging.ERROR)

    @ray.remote(num_cpus=0)
    def turn(key: str) -> tuple[str, str | None]:
        lease = raybox.connect().lease(key)
        run = lease.sandbox.run_code("turns = globals().get('turns', 0) + 1; turns")
        return lease.sandbox.sandbox_id, run.text

    class Owner:
        def lease(self, key: str) -> str:
            return raybox.connect().lease(key, owner="actor").sandbox.sandbox_id

    turns = [ray.get(turn.remote("of-the-job")) for _ in range(3)]
    owner: Any = ray.remote(num_cpus=0)(Owner).remote()
    say(turns=turns, of_actor=ray.get(owner.lease.remote("of-the-actor")))
    sys.stdin.readline()
    ray.kill(owner)
    say()
    sys.stdin.readline()


if __name__ == "__main__":
    {"http": over_http, "ray": over_ray}[sys.argv[1]]()
