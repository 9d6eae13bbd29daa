"""Rewards of written programs: every candidate against every test case, in one batch.

    python examples/rl/code_reward.py --candidates 100 --cases 10

A candidate is a program that shall read a number and print the sum of its digits; the part of its cases that it gets
right is its reward. The candidates are of four kinds, of which the script knows what each deserves.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator

import raybox

KINDS = {
    "right": ("print(sum(map(int, input())))", 1.0),
    "wrong for long ones": ("number = input()\nprint(sum(map(int, number[:3])))", 0.5),
    "raises": ("print(1 / 0)", 0.0),
    "prints too much": ("print('the sum is', sum(map(int, input())))", 0.0),
}


def cases(count: int) -> list[tuple[str, str]]:
    """What is typed in, and what has to come out. Every other number has more than three digits."""
    numbers = [str(7 * one % 900 + 100 if one % 2 else 12345 + 31 * one) for one in range(count)]
    return [(number, str(sum(map(int, number)))) for number in numbers]


def score(pool: raybox.Pool, programs: list[str], tests: list[tuple[str, str]]) -> list[float | None]:
    """Of each program the part of the tests that it passes; None where a fault that is not its own spoiled one."""

    def items() -> Iterator[raybox.ExecItem]:
        for number, program in enumerate(programs):
            for stdin, _ in tests:
                yield raybox.ExecItem(program, id=str(number), stdin=stdin, kind="program", timeout_s=10)

    passed: dict[int, int] = defaultdict(int)
    spoiled: set[int] = set()
    for result in pool.exec_many(items()):
        number, test = divmod(result.index, len(tests))
        if result.should_mask_sample:
            spoiled.add(number)
        elif result.status == "ok" and result.stdout.strip() == tests[test][1]:
            passed[number] += 1
    return [None if number in spoiled else passed[number] / len(tests) for number in range(len(programs))]


def main(candidates: int, count: int) -> bool:
    kinds = list(KINDS.values())
    programs, deserved = zip(*(kinds[number % len(kinds)] for number in range(candidates)), strict=True)
    began = time.monotonic()
    rewards = score(raybox.connect(), list(programs), cases(count))
    took_s = time.monotonic() - began
    masked = rewards.count(None)
    right = sum(reward in (due, None) for reward, due in zip(rewards, deserved, strict=True))
    print(
        f"{candidates * count} test cases of {candidates} candidates in {took_s:.1f} s"
        f" ({candidates * count / took_s:.0f} a second): {right} rewards as deserved, {masked} of them masked"
    )
    return right == candidates


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--cases", type=int, default=10)
    options = parser.parse_args()
    raise SystemExit(not main(options.candidates, options.cases))
