"""Rollouts of many turns, with Ray alone: each trajectory keeps its sandbox, in whatever process its next turn runs.

    python examples/rl/multi_turn.py --trajectories 64 --turns 4

Run it in the Ray cluster of a pool (RAY_ADDRESS, or `ray job submit`). The policy is scripted: turn by turn it writes
code that goes on from what the turns before left in the sandbox, in variables and in a file, and it knows what a
trajectory that sees its own state, all of it and nothing else, has to answer.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
from dataclasses import dataclass

import ray

import raybox


@dataclass(frozen=True)
class Policy:
    """A policy that knows what it wants. Its memory is the sandbox's."""

    number: int

    def write(self, turn: int) -> str:
        if turn == 0:
            return f"from pathlib import Path\nassert 'total' not in globals()\ntotal = {self.number}\ntotal"
        return (
            f"total = 3 * total + {turn}\n"
            f"with open('turns.txt', 'a') as notes: notes.write('{self.number}:{turn} ')\n"
            "total, Path('turns.txt').read_text()"
        )

    def expects(self, turn: int) -> str:
        total = self.number
        for one in range(1, turn + 1):
            total = 3 * total + one
        notes = "".join(f"{self.number}:{one} " for one in range(1, turn + 1))
        return str(total) if turn == 0 else str((total, notes))


@dataclass(frozen=True)
class Outcome:
    """reward: 1 if every turn answered as expected; None where the sample is to be left out of the update."""

    number: int
    reward: float | None
    pids: frozenset[int]


@dataclass(frozen=True)
class Answer:
    """masked: there is none, for no fault of the policy. pid: of the process in which the turn was taken."""

    text: str | None
    masked: bool
    pid: int


@ray.remote(num_cpus=0.25)
def take_turn(pool: raybox.Pool, key: str, code: str) -> Answer:
    """One turn, in any process of the cluster. Whoever has the key has the sandbox."""
    try:
        execution = pool.lease(key).sandbox.run_code(code)
    except raybox.RayboxError as error:
        if not error.should_mask_sample:
            raise
        return Answer(None, True, os.getpid())
    return Answer(execution.error.traceback if execution.error else execution.text, False, os.getpid())


async def rollout(pool: raybox.Pool, places: asyncio.Semaphore, number: int, turns: int) -> Outcome:
    policy, key, pids, reward = Policy(number), f"multi-turn-{number}", set(), 1.0
    async with places:
        for turn in range(turns):
            answer = await take_turn.remote(pool, key, policy.write(turn))
            pids.add(answer.pid)
            if answer.masked:
                return Outcome(number, None, frozenset(pids))
            if answer.text != policy.expects(turn):
                reward = 0.0
        await asyncio.to_thread(lambda: pool.lease(key).release())
    return Outcome(number, reward, frozenset(pids))


async def main(trajectories: int, turns: int) -> list[Outcome]:
    pool = raybox.connect(transport="ray")
    at_once = max(1, pool.capacity().available)
    places = asyncio.Semaphore(at_once)
    began = time.monotonic()
    outcomes = await asyncio.gather(*(rollout(pool, places, number, turns) for number in range(trajectories)))
    took_s = time.monotonic() - began
    rewards = [one.reward for one in outcomes]
    print(
        f"{trajectories} trajectories of {turns} turns, {at_once} at once, in {took_s:.1f} s:"
        f" {rewards.count(1.0)} as expected, {rewards.count(0.0)} not, {rewards.count(None)} masked;"
        f" turns ran in {len(frozenset[int]().union(*(one.pids for one in outcomes)))} processes"
    )
    return list(outcomes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    ray.init(logging_level=logging.ERROR)
    outcomes = asyncio.run(main(options.trajectories, options.turns))
    raise SystemExit(any(one.reward == 0.0 for one in outcomes))
