"""Cells on the real pool, through both clients."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import raybox
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool


def test_state_lives_between_cells(sandbox: Any) -> None:
    assert sandbox.run_code("x = 20").error is None
    execution = sandbox.run_code("print('hello'); x * 2.1")
    assert execution.logs.stdout == ["hello\n"]
    assert execution.text == "42.0"
    assert execution.execution_count == 2


def test_rich_results(sandbox: Any) -> None:
    frame = sandbox.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})").results[0]
    assert frame.data == {"a": [1, 2], "b": ["x", None]}
    assert frame.html is not None
    assert "<table" in frame.html
    assert frame.is_main_result
    figure = sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()").results[0]
    assert base64.b64decode(figure.png).startswith(b"\x89PNG")
    assert not figure.is_main_result
    for code, name, value in (
        ("from IPython.display import *; HTML('<b>x</b>')", "html", "<b>x</b>"),
        ("Markdown('# x')", "markdown", "# x"),
        ("Latex('$x$')", "latex", "$x$"),
        ("SVG('<svg/>')", "svg", "<svg/>"),
        ("JSON({'a': [1]})", "json", {"a": [1]}),
        ("Javascript('1')", "javascript", "1"),
        ("{'a': 1}", "json", {"a": 1}),
        ("'quoted'", "text", "quoted"),
    ):
        assert getattr(sandbox.run_code(code).results[0], name) == value
    raw = sandbox.run_code("display({'text/latex': 'only'}, raw=True)").results[0]
    assert list(raw.formats()) == ["latex"]


def test_errors_are_data(sandbox: Any) -> None:
    execution = sandbox.run_code("def f():\n    return 1 / 0\nf()")
    assert execution.error.name == "ZeroDivisionError"
    assert execution.error.value == "division by zero"
    assert "return 1 / 0" in execution.error.traceback
    assert "\x1b[" not in execution.error.traceback
    assert sandbox.run_code("1 +").error.name == "SyntaxError"
    assert sandbox.run_code("2").text == "2"


def test_what_a_callback_sees_arrives_while_the_cell_runs(sandbox: Any) -> None:
    """The cell waits for a file that is only written after its first line has arrived."""
    context = sandbox.create_code_context()
    seen: list[str] = []

    def on_stdout(message: Any) -> None:
        seen.append(message.line if hasattr(message, "line") else str(message))
        if "first" in seen[0] and len(seen) == 1:
            assert sandbox.run_code("open('/tmp/go', 'w').close()", context=context).error is None

    execution = sandbox.run_code(
        "import os, time\nprint('first')\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)\nprint('second')",
        on_stdout=on_stdout,
    )
    assert execution.error is None
    assert "".join(seen) == "first\nsecond\n"


def test_order_of_streams_and_results(sandbox: Any) -> None:
    order: list[str] = []
    sandbox.run_code(
        "import sys\nprint('a')\ndisplay(1)\nprint('b', file=sys.stderr)\nprint('c')\n2",
        on_stdout=lambda message: order.append(f"out {message.line.strip()}"),
        on_stderr=lambda message: order.append(f"err {message.line.strip()}"),
        on_result=lambda result: order.append(f"result {result.text}"),
    )
    assert order == ["out a", "result 1", "err b", "out c", "result 2"]


def test_environment_and_contexts(create: Callable[..., Any]) -> None:
    sandbox = create(envs={"GLOBAL": "g"})
    read = "import os; [os.environ.get('GLOBAL'), os.environ.get('ONCE')]"
    assert sandbox.run_code(read, envs={"ONCE": "1"}).text == "['g', '1']"
    assert sandbox.run_code(read).text == "['g', None]"
    context = sandbox.create_code_context(cwd="/tmp")
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
    assert sandbox.run_code(read, context=context).text == "['g', None]"
    sandbox.run_code("y = 1", context=context)
    assert sandbox.run_code("y").error.name == "NameError"
    assert sandbox.list_code_contexts()[-1].id == context.id
    sandbox.restart_code_context(context)
    assert sandbox.run_code("y", context=context).error.name == "NameError"
    sandbox.remove_code_context(context)
    assert context.id not in [one.id for one in sandbox.list_code_contexts()]


def test_two_contexts_run_at_the_same_time(sandbox: Any) -> None:
    """Each waits for a file of the other: one after the other they would never end."""
    contexts = [sandbox.create_code_context() for _ in range(2)]
    results: dict[int, Any] = {}

    def run(mine: int) -> None:
        code = (
            f"import os, time\nopen('/tmp/{mine}', 'w').close()\n"
            f"while not os.path.exists('/tmp/{1 - mine}'): time.sleep(0.01)\n'met'"
        )
        results[mine] = sandbox.run_code(code, context=contexts[mine])

    threads = [threading.Thread(target=run, args=(mine,)) for mine in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [results[mine].text for mine in range(2)] == ["met", "met"]


def test_a_client_timeout_interrupts_and_keeps_the_state(sandbox: Any) -> None:
    sandbox.run_code("kept = 1")
    with pytest.raises(Exception, match=r"(?i)timed? ?out") as raised:
        sandbox.run_code("import time\ntry:\n    time.sleep(60)\nfinally:\n    interrupted = True", timeout=0.5)
    assert "Timeout" in type(raised.value).__name__
    assert sandbox.run_code("kept, interrupted", timeout=20).text == "(1, True)"


@pytest.mark.anyio
async def test_a_cancelled_task_interrupts(async_client: Any) -> None:
    sandbox = await async_client.create(timeout=120)
    try:
        started = asyncio.Event()
        running = asyncio.create_task(
            sandbox.run_code("print('on')\nimport time; time.sleep(60)", on_stdout=lambda _: started.set())
        )
        async with asyncio.timeout(30):
            await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await sandbox.run_code("1 + 1", timeout=20)).text == "2"
    finally:
        await sandbox.kill()


def test_ten_megabytes_in_one_cell(sandbox: Any) -> None:
    execution = sandbox.run_code("print('x' * 10_000_000)")
    assert len("".join(execution.logs.stdout)) == 10_000_001
    assert execution.error is None


def test_a_hundred_thousand_small_prints(sandbox: Any) -> None:
    execution = sandbox.run_code("for i in range(100_000): print(i)", timeout=120)
    assert "".join(execution.logs.stdout) == "".join(f"{i}\n" for i in range(100_000))


def test_unicode_and_binary_noise(sandbox: Any) -> None:
    text = "äöü 漢字 \u2028 \u0085 🎉 \x00 \x1b \r end"
    assert "".join(sandbox.run_code(f"print({text!r}, end='')").logs.stdout) == text
    assert sandbox.run_code("'\\ud800' * 2").error is None
    noise = sandbox.run_code("import os\nfor _ in range(50): os.write(1, os.urandom(1000))\nNone")
    assert noise.error is None
    assert len("".join(noise.logs.stdout)) > 10_000
    assert sandbox.run_code("3").text == "3"


@pytest.mark.parametrize("how", ["import os; os.kill(os.getpid(), 9)", "import os; os._exit(3)", "exit()"])
def test_a_kernel_that_ends_itself(sandbox: Any, how: str) -> None:
    sandbox.run_code("x = 1")
    execution = sandbox.run_code(how)
    assert execution.error.name == "UnexpectedEndOfExecution"
    assert "state of the context is gone" in execution.error.value
    assert sandbox.run_code("x").error.name == "NameError"


def test_killing_everything_inside_loses_no_more_than_the_state(sandbox: Any) -> None:
    execution = sandbox.run_code("import os, signal\nos.kill(-1, signal.SIGKILL)")
    assert sandbox.run_code("1 + 1").text == "2"
    assert execution is not None


def test_nothing_of_the_host_is_seen(sandbox: Any) -> None:
    seen = sandbox.run_code(
        "import os\n[sorted(os.environ), os.path.exists('/tmp/ray'), os.listdir('/home'),"
        " os.getuid(), os.uname().nodename]"
    )
    names, ray, home, uid, host = eval(seen.text)
    assert not [name for name in names if name.startswith(("RAY", "E2B_API"))]
    assert (ray, home, uid, host) == (False, ["user"], 1000, "sandbox")
    assert sandbox.run_code("open('/proc/net/dev').read().count(':')").text == "1"


def test_input_is_refused(sandbox: Any) -> None:
    assert sandbox.run_code("input('?')").error.name == "StdinNotImplementedError"


def test_expiry_in_the_middle_of_a_cell(create: Callable[..., Any]) -> None:
    sandbox = create(timeout=2)
    began = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)sandbox") as raised:
        sandbox.run_code("import time; time.sleep(60)")
    assert "Timeout" in type(raised.value).__name__ or "NotRunning" in type(raised.value).__name__, raised.value
    assert time.monotonic() - began < 30
    wait_until(lambda: not sandbox.is_running(), 10)


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("import time; time.sleep(60)", True),
        ("import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)", False),
    ],
)
def test_a_server_side_timeout_says_whether_the_state_is_kept(code: str, kept: bool, running_pool: RunningPool) -> None:
    with raybox.Sandbox.create(timeout=60) as sandbox:
        sandbox.run_code("x = 1")
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49999", "X-Raybox-Timeout-Seconds": "0.3"}
        answer = httpx.post(f"{running_pool.url}/execute", json={"code": code}, headers=headers, timeout=30)
        events = [json.loads(line) for line in answer.text.splitlines()]
        (error,) = [event for event in events if event["type"] == "error"]
        assert error["name"] == "ExecutionTimeout"
        assert f"the state of the context is {'kept' if kept else 'gone'}" in error["value"]
        assert events[-1]["type"] == "end_of_execution"
        after = sandbox.run_code("x")
        assert (after.text == "1") is kept
