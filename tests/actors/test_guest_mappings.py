"""What a fork of a zygote need not map again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import raybox_actors

GUEST = Path(raybox_actors.__file__).parent / "guest"
#: Says how much of programs and libraries is mapped, in KiB: here, and in a fork that has touched next to nothing.
FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
import walls

def mapped_kib():
    total, counts = 0, False
    for words in map(str.split, open("/proc/self/smaps")):
        if not words[0].endswith(":"):
            counts = words[1] == "r-xp" and words[4] != "0"
        elif counts and words[0] == "Rss:":
            total += int(words[1])
    return total

if sys.argv[2] == "pass on":
    walls.pass_on_mappings()
print(mapped_kib(), flush=True)
if not os.fork():
    print(mapped_kib(), flush=True)
    os._exit(0)
os.wait()
"""


def mapped_kib(how: str) -> tuple[int, int]:
    command = [sys.executable, "-c", FORK, str(GUEST), how]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parent, fork = map(int, said.split())
    return parent, fork


def test_a_fork_inherits_what_is_mapped_of_files() -> None:
    parent, fork = mapped_kib("pass on")
    assert fork >= parent
    parent, fork = mapped_kib("do not")
    assert fork < parent, "or there is nothing to be gained"
