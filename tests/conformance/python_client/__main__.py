"""Run every program, or those named, with the clients of this interpreter: one line of JSON for each.

The first argument is `sync` or `async`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import traceback

from . import cells, commands, files, ports, sandboxes, unavailable
from .programs import PROGRAMS, Absent, Client, Differs, Mismatch

#: What the gateway says of things that it does not do, and that no client could do better.
REFUSAL = re.compile(r"not available in this version|not supported yet|--network egress")
MODULES = (cells, commands, files, ports, sandboxes, unavailable)


def read(error: Exception, ids: list[str]) -> tuple[str, str]:
    """Status and detail of what a program raised."""
    text = str(error)
    for sandbox_id in ids:
        text = text.replace(sandbox_id, "<id>")
    if isinstance(error, Differs):
        return "differs", text
    if isinstance(error, Absent):
        return "absent", text
    if isinstance(error, Mismatch):
        return "fails", text
    name = type(error).__name__
    if type(error).__module__.partition(".")[0].startswith("e2b") and REFUSAL.search(text):
        return "refused", f"{name}: {text}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    print(f"{where.filename}:{where.lineno}: {name}: {text}", file=sys.stderr)
    return "fails", f"{name}: {text}"


async def main(asynchronous: bool, names: list[str]) -> None:
    client = Client(asynchronous)
    try:
        for name in names or PROGRAMS:
            status, detail = "works", ""
            try:
                await PROGRAMS[name](client)
            except Exception as error:
                status, detail = read(error, [sandbox.sandbox_id for sandbox in client.made])
            print(json.dumps({"name": name, "status": status, "detail": detail}), flush=True)
            await client.end(all_of_them=False)
    finally:
        await client.end(all_of_them=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] == "async", sys.argv[2:]))
    sys.stdout.flush()
    os._exit(0)  # some versions' HTTP library, which is native code, now and then aborts when the interpreter ends
