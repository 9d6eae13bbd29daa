"""Drive every client through every capability, and write docs/compatibility.md; 1 if something worked before.

It starts a pool of its own, or uses the one of RAYBOX_URL and RAYBOX_API_KEY.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.pool import raybox, start_pool, stop_pool

from . import clients, matrix

PAGE = clients.ROOT / "docs/compatibility.md"


@contextmanager
def pool() -> Iterator[dict[str, str]]:
    """How clients reach it."""
    if url := os.environ.get("RAYBOX_URL"):
        yield clients.where(url, os.environ["RAYBOX_API_KEY"])
        return
    name = f"conformance-{os.getpid()}"
    try:
        mine = start_pool(name, "--sandboxes", "6", "--warm", "2")
    except BaseException:
        raybox("down", "--name", name)
        raise
    try:
        yield clients.where(mine.url, mine.api_key)
    finally:
        stop_pool(mine)


def main() -> int:
    before = matrix.read(PAGE.read_text()) if PAGE.exists() else {}
    with pool() as environment:
        columns = dict(
            clients.python(interpreter, environment)
            for interpreter in (clients.environment_of("oldest"), Path(sys.executable))
        )
        column = clients.javascript(environment)
    if column is None:
        print("conformance: needs node and npm", file=sys.stderr)
        return 1
    columns[column[0]] = column[1]
    worse = matrix.regressions(before, columns)
    for line in matrix.changes(before, columns):
        print(line)
    for line in worse:
        print(f"conformance: {line}", file=sys.stderr)
    if not worse:
        PAGE.write_text(matrix.page(columns))
    for title, column_ in columns.items():
        counts = {status: sum(one.status == status for one in column_.values()) for status in matrix.STATUSES}
        print(f"{title}: {', '.join(f'{count} {status}' for status, count in counts.items() if count)}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
