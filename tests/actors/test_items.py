"""Items of a batch in real walls: what they give, and that the next one sees nothing of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raybox_actors.errors import BadRequest, InternalError, LimitReached, NotFound, SandboxLost
from raybox_actors.items import MAX_FETCHED_BYTES, fetched, needs_standard_library_only
from raybox_actors.session import TOGETHER_BYTES
from raybox_actors.values import ITEM_OUTPUT_BYTES, ItemOutcome, ItemRequest
from tests.actors.driving import Driver, eventually, parse

OpenSession = Callable[..., Awaitable[Driver]]
pytestmark = pytest.mark.anyio
_numbers = itertools.count()


class Items:
    """One sandbox for items."""

    def __init__(self, driver: Driver) -> None:
        self.session = driver.session

    async def run(self, code: str, **fields: Any) -> ItemOutcome:
        (end,) = (await self.session.run_items([ItemRequest(f"i{next(_numbers)}", code, **fields)])).ends
        if isinstance(end, Exception):
            raise end
        return end

    async def program(self, code: str, **fields: Any) -> ItemOutcome:
        return await self.run(code, kind="program", **fields)


@pytest.fixture
async def items(session: OpenSession) -> Items:
    return Items(await session())


def text(outcome: ItemOutcome, stream: str = "stdout") -> str:
    return "".join(event["text"] for event in parse(outcome.lines) if event["type"] == stream)


def error(outcome: ItemOutcome) -> str | None:
    return next((event["name"] for event in parse(outcome.lines) if event["type"] == "error"), None)


#: Leaves all that there is to be left, each where it can.
ATTACK = """
import contextlib, ctypes, json, os, signal, socket, subprocess, sys, threading, time
for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", os.path.expanduser("~")):
    open(f"{place}/left", "w").write("x")
os.chmod(os.path.expanduser("~"), 0o777)
for place in ("/left", "/usr/left", "/etc/left", sys.prefix + "/left", "/run/left", "/.layers/left", "/var/lib/left"):
    with contextlib.suppress(OSError):
        open(place, "w").write("x")
libc = ctypes.CDLL(None)
libc.shmget(4711, 4096, 0o1666)
libc.semget(4711, 1, 0o1666)
libc.msgget(4711, 0o1666)
os.environ["LEFT"] = "1"
json.left = 1
sys.modules["left"] = json
signal.signal(signal.SIGTERM, lambda *_: None)
os.chdir("/tmp")
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
subprocess.run(["sudo", "-n", "touch", "/etc/left"], capture_output=True)
ready, tell = os.pipe()
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    port = socket.create_server(("127.0.0.1", 5000))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\\0left")
    os.write(tell, b"x")
    while True:
        with contextlib.suppress(OSError):
            open("/tmp/still", "w").write("x")
        time.sleep(0.001)
os.read(ready, 1)
print("done", flush=True)
"""
#: Says what it can see of anything.
LOOK = """
import ctypes, glob, json, os, signal, socket, stat, sys, threading
places = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", os.path.expanduser("~"))
libc = ctypes.CDLL(None)
seen = {
    "files": sorted(set(sum((os.listdir(p) for p in places), [])) - {"lock", "main.py"})
    + [p for p in ("/left", "/usr/left", "/etc/left", sys.prefix + "/left", "/var/lib/left") if os.path.exists(p)],
    "home": oct(os.stat(os.path.expanduser("~")).st_mode),
    "others": sorted(int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())),
    "ipc": [libc.shmget(4711, 0, 0) >= 0, libc.semget(4711, 0, 0) >= 0, libc.msgget(4711, 0) >= 0],
    "environment": os.environ.get("LEFT"),
    "modules": "left" in sys.modules or hasattr(json, "left"),
    "handler": signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL,
    "cwd": os.getcwd(),
    "threads": threading.active_count(),
    "names": sorted(name for name in globals() if name.startswith("x_")),
    "sockets": open("/proc/net/unix").read().count("left"),
    "port": socket.socket().connect_ex(("127.0.0.1", 5000)) == 0,
}
print(json.dumps(seen))
"""
CLEAN = {
    "files": [],
    "home": "0o40755",
    "others": [],
    "ipc": [False, False, False],
    "environment": None,
    "modules": False,
    "handler": False,
    "cwd": "/home/user",
    "threads": 1,
    "names": [],
    "sockets": 0,
    "port": False,
}


async def test_the_next_item_sees_nothing_whatever_was_left(items: Items) -> None:
    for kind in ("program", "cell"):
        attacked = await items.run(ATTACK + "\nx_left = 1", kind=kind)
        assert (attacked.status, attacked.clean) == ("ok", True), attacked
        for looks in ("program", "cell"):
            seen = await items.run(LOOK, kind=looks)
            assert seen.status == "ok", seen
            assert json.loads(text(seen)) == CLEAN, (kind, looks)


async def test_an_item_does_not_see_the_kernel_that_was_parked(items: Items) -> None:
    """Or it could change it, through /proc, for whoever comes next."""
    seen = await items.run(LOOK)
    assert json.loads(text(seen)) == CLEAN
    assert items.session.contexts() == []


async def test_a_program_is_run_as_a_file_of_its_own(items: Items) -> None:
    code = """
import sys, helper
print(__name__, sys.argv, sys.stdin.readline().strip(), sys.stdin.read(), helper.VALUE, flush=True)
print("to stderr", file=sys.stderr)
open("out/b.bin", "wb").write(bytes(range(256)))
import atexit
atexit.register(lambda: print("at exit"))
assert not hasattr(__builtins__, "get_ipython") and "display" not in dir(__builtins__)
sys.exit(7)
"""
    files = {"helper.py": b"VALUE = 'beside'", "out/a.txt": b"given"}
    done = await items.program(
        code, files=files, stdin="first\nrest ü".encode(), fetch=("out/b.bin", "out/a.txt", "none")
    )
    assert text(done) == "__main__ ['/home/user/main.py'] first rest ü beside\nat exit\n", parse(done.lines)
    assert text(done, "stderr") == "to stderr\n"
    assert (done.status, done.exit_code) == ("error", 7)
    assert done.files == {"out/b.bin": bytes(range(256)), "out/a.txt": b"given"}


@pytest.mark.parametrize("imports", ["", "import numpy\n"])
@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("", 0, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("raise SystemExit", 0, ""),
        ("1/0", 1, 'File "/home/user/main.py", line {line}, in <module>'),
        ("def f(:", 1, "SyntaxError"),
        ("import os; os.kill(os.getpid(), 11)", -11, ""),
        ("import os; os._exit(300)", 44, ""),
        ("def f(): f()\nf()", 1, "RecursionError"),
        ("import sys; sys.stdout.write('\\udc80')", 1, "UnicodeEncodeError"),
        (
            "import threading as t, os, time\nt.Thread(target=lambda: time.sleep(0.01) or os.write(2, b'x')).start()",
            0,
            "x",
        ),
    ],
)
async def test_a_program_ends_as_python_ends_it(
    items: Items, code: str, exit_code: int, said: str, imports: str
) -> None:
    """In a fork of either zygote."""
    done = await items.program(imports + code)
    assert done.exit_code == exit_code, done
    assert said.format(line=2 if imports else 1) in text(done, "stderr")
    assert "zygote" not in text(done, "stderr")
    assert "program.py" not in text(done, "stderr")


async def test_time_and_memory_are_the_items_own(items: Items) -> None:
    endless = "while True: pass"
    assert (await items.program(endless, timeout_s=0.2)).status == "timeout"
    cell = await items.run(endless, timeout_s=0.2)
    assert (cell.status, error(cell)) == ("timeout", "ExecutionTimeout")
    stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + endless
    assert (await items.run(stubborn, timeout_s=0.2)).status == "timeout"
    assert text(await items.run("print('still there')")) == "still there\n"


async def test_memory_that_runs_out_is_told_as_such(items: Items) -> None:
    grow = "x = []\nwhile True: x.append(bytearray(64 << 20))"
    for kind in ("program", "cell"):
        done = await items.run(grow, kind=kind)
        assert (done.status, error(done)) == ("oom", "OutOfMemory")
    assert (await items.run("1")).status == "ok"


async def test_output_is_bounded_and_says_so(items: Items) -> None:
    flood = f"import sys\nfor _ in range(9): sys.stdout.write('x' * {ITEM_OUTPUT_BYTES // 4})\nsys.stdout.flush()"
    for kind in ("program", "cell"):
        done = await items.run(flood, kind=kind)
        assert done.status == "ok"
        assert len(text(done)) == ITEM_OUTPUT_BYTES
        assert "output was cut" in text(done, "stderr")


async def test_a_bomb_of_processes_ends_with_its_item(items: Items) -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    done = await items.program(bomb, timeout_s=0.5)
    assert done.status == "timeout"
    assert done.clean, "all of it is gone"
    assert text(await items.program("import os; print(os.fork() >= 0)")) in ("True\nTrue\n", "True\n")


async def test_what_cannot_be_an_item_is_refused(items: Items) -> None:
    with pytest.raises(BadRequest, match="not available"):
        await items.program("1", language="cobol")
    with pytest.raises(BadRequest, match="below the working folder"):
        await items.program("1", files={"../x": b""})
    with pytest.raises(BadRequest, match="kind program"):
        await items.run("1", stdin=b"x")


async def test_one_at_a_time(items: Items) -> None:
    async def until_refused() -> None:
        with pytest.raises(LimitReached):
            await items.run("2")

    first = items.session._spawn(items.run("import time; time.sleep(0.3); print(1)"))
    await eventually(lambda: items.session.executions_running == 1)
    await until_refused()
    assert text(await first) == "1\n"


@pytest.mark.parametrize(
    ("code", "lean"),
    [
        ("", True),
        ("import sys, os.path as p\nfrom collections import deque", True),
        ("def f():\n    import numpy as np", False),
        ("import sys, pandas", False),
        ("from numpy.linalg import norm", False),
        ("x = 'import numpy'", True),
    ],
)
def test_which_programs_need_no_packages(code: str, lean: bool) -> None:
    assert needs_standard_library_only(code) is lean


async def test_the_sandboxs_root_cannot_lead_a_view_astray(items: Items) -> None:
    """Views are made by the host's root, in folders that the sandbox's root may rename."""
    await items.session.parked()
    argv = ["/bin/sh", "-c", "mv /.layers /away && ln -s /tmp /.layers"]
    request = {"op": "exec", "argv": argv, "root": True, "env": {"PATH": "/usr/bin:/bin"}}
    null = os.open(os.devnull, os.O_RDWR)
    child = await items.session._place.enter(request, "/", [null] * 3)
    os.close(null)
    assert await child.status() == 0
    child.close()
    with pytest.raises(InternalError, match=r"Not a directory|Too many levels"):
        await items.program("print(1)")


@pytest.mark.parametrize(
    ("left", "files"),
    [
        (b'{"a": "eA==", "../b": "eA==", "code": "eA=="}', {"a": b"x"}),
        (b'{"a": "*", "code": "eA=="}', {}),
        (b'{"a": ["eA=="]}', {}),
        (b"[1]", {}),
        (b"[" * 100_000, {}),
        (b'{"a": "eA=="}'.ljust(MAX_FETCHED_BYTES + 1), {}),
    ],
)
def test_what_a_program_left_is_not_trusted(left: bytes, files: dict[str, bytes]) -> None:
    with tempfile.TemporaryFile() as bundle:
        bundle.write(left)
        bundle.flush()
        assert fetched(bundle.fileno(), ("a",)) == files


async def test_items_that_come_together_end_in_order_until_one_takes_long(session: OpenSession) -> None:
    driver = await session()
    codes = ["print(1)", "print(2)", "import time; time.sleep(1); print(3)", "print(4)"]
    together = [ItemRequest(f"t{next(_numbers)}", code, "program") for code in codes]
    done = await driver.session.run_items(together[:2], 60.0)
    assert [text(end) for end in done.ends if isinstance(end, ItemOutcome)] == ["1\n", "2\n"]
    assert not done.running
    done = await driver.session.run_items(together, 0.5)
    assert done.running
    assert len(done.ends) == 2
    assert driver.session.executions_running == 1
    with pytest.raises(LimitReached):
        await driver.session.run_items(together[:1])
    assert text(await driver.session.item_end()) == "3\n"
    assert text(await driver.session.item_end()) == "3\n", "as often as one likes"
    assert driver.session.executions_running == 0
    (end,) = (await driver.session.run_items(together[3:])).ends
    assert isinstance(end, ItemOutcome)
    assert text(end) == "4\n"


async def test_items_that_come_together_end_early_when_much_came_of_them(session: OpenSession) -> None:
    driver = await session()
    large, small = f"print('x' * {TOGETHER_BYTES})", "print('x' * 1000)"
    together = [ItemRequest(f"t{next(_numbers)}", code, "program") for code in (small, large, small)]
    done = await driver.session.run_items(together, 60.0)
    assert [len(text(end)) for end in done.ends if isinstance(end, ItemOutcome)] == [1001, TOGETHER_BYTES + 1]
    assert not done.running


async def test_of_items_that_come_together_one_cannot_be_run(session: OpenSession) -> None:
    driver = await session()
    with pytest.raises(NotFound):
        await driver.session.item_end()
    together = [
        ItemRequest(f"t{next(_numbers)}", "print(1)", "program", language) for language in ("python", "cobol", "bash")
    ]
    first, second, _ = (await driver.session.run_items(together)).ends
    assert isinstance(first, ItemOutcome)
    assert isinstance(second, BadRequest)


async def test_the_end_of_the_sandbox_ends_items_that_came_together(session: OpenSession) -> None:
    driver = await session()
    together = [ItemRequest(f"t{next(_numbers)}", "import time; time.sleep(60)", "program")] * 2
    assert (await driver.session.run_items(together, 0.2)).running
    ending = asyncio.ensure_future(driver.session.item_end())
    await asyncio.sleep(0)
    await driver.session.close(SandboxLost("s", "killed"))
    with pytest.raises(SandboxLost):
        await ending
