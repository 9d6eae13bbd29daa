"""What `test_ray.py` runs in a process that has joined the pool's cluster: every check prints one line of JSON.

The process has the client and Ray, and nothing of the server: what comes over Ray must not need it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import ray

import raybox
from raybox import AsyncSandbox, Sandbox
from tests.support.wait import wait_until

CHECKS: dict[str, Callable[[], None]] = {}
FOREVER = "import time\nfor beat in range(100_000): time.sleep(0.01)"
MEGABYTES = b"".join(number.to_bytes(4, "big") for number in range(2_000_000))

url, key = os.environ.get("RAYBOX_URL", ""), os.environ.get("RAYBOX_API_KEY", "")


def check(work: Callable[[], None]) -> Callable[[], None]:
    CHECKS[work.__name__] = work
    return work


def http() -> raybox.Pool:
    return raybox.connect(url, api_key=key)


@contextmanager
def sandbox(**options: Any) -> Iterator[Sandbox]:
    with Sandbox.create(timeout=120, **options) as made:
        yield made


def in_loop(work: Callable[[], Any]) -> None:
    asyncio.run(work())


# --- calls -----------------------------------------------------------------------------------------------------------


@check
def cells() -> None:
    with sandbox(envs={"GIVEN": "yes"}) as box:
        assert box.connection_config.over_ray
        assert box.run_code("x = 20; x + 1").text == "21"
        assert box.run_code("import os; (x, os.environ['GIVEN'])").text == "(20, 'yes')"
        failed = box.run_code("1 / 0").error
        assert failed is not None
        assert failed.name == "ZeroDivisionError"
        context = box.create_code_context(cwd="/tmp")
        assert box.run_code("import os; os.getcwd()", context=context).text == "/tmp"
        long = box.run_code("for number in range(100_000): print(number)")
        assert "".join(long.logs.stdout).split() == [str(number) for number in range(100_000)]


@check
def output_comes_while_the_cell_runs() -> None:
    with sandbox() as box:
        seen = []

        def answer(message: raybox.OutputMessage) -> None:
            seen.append(message.line)
            box.files.write("answer", "42")

        execution = box.run_code(
            "import time, pathlib\nprint('ask')\n"
            "while not (file := pathlib.Path('answer')).exists() or not file.read_text(): time.sleep(0.01)\n"
            "int(file.read_text())",
            on_stdout=answer,
            timeout=30,
        )
        assert (seen, execution.text) == (["ask\n"], "42")


@check
def errors_are_those_of_http() -> None:
    def told(call: Callable[[], Any]) -> tuple[Any, ...]:
        with pytest.raises(raybox.RayboxError) as caught:
            call()
        return type(caught.value), caught.value.cause, caught.value.args

    with sandbox() as live, sandbox() as dead:
        there = http()
        ways = [
            (raybox.connect(), (live, dead)),
            (there, tuple(there.connect(one.sandbox_id) for one in (live, dead))),
        ]
        dead.kill()
        calls: list[Callable[[Any, Any, Any], Any]] = [
            lambda pool, live, dead: live.run_code("1", language="cobol"),
            lambda pool, live, dead: live.run_code("1", context="none"),
            lambda pool, live, dead: live.run_code("1", envs={"a=b": "c"}),
            lambda pool, live, dead: live.run_code("import time; time.sleep(60)", timeout=0.5),
            lambda pool, live, dead: live.attach_execution("none"),
            lambda pool, live, dead: dead.run_code("1"),
            lambda pool, live, dead: dead.list_code_contexts(),
            lambda pool, live, dead: dead.files.read("x"),
            lambda pool, live, dead: dead.get_info(),
            lambda pool, live, dead: live.files.read("none"),
            lambda pool, live, dead: live.commands.run("exit 3"),
            lambda pool, live, dead: pool.connect("i" + "0" * 40),
            lambda pool, live, dead: pool.create("no-such-template"),
            lambda pool, live, dead: pool.create(timeout=10**9),
            lambda pool, live, dead: raybox.connect(pool.connection_config.api_url, api_key="e2b_" + "f" * 40).create(),
        ]
        for number, call in enumerate(calls):
            over_ray, over_http = (told(partial(call, pool, *boxes)) for pool, boxes in ways)
            assert over_ray == over_http, number
        assert [dead.is_running(), live.is_running()] == [False, True]


@check
def leaving_interrupts() -> None:
    with sandbox() as box:

        def leave(message: object) -> None:
            raise KeyError

        for code in ("print(1)\n" + FOREVER, "import time\nwhile True: print(1); time.sleep(0.01)"):
            with pytest.raises(KeyError):
                box.run_code(code, on_stdout=leave)
            assert box.run_code("'free'", timeout=20).text == "free"

        async def cancelled() -> None:
            twin = await AsyncSandbox.connect(box.sandbox_id)
            began = asyncio.Event()
            call = asyncio.create_task(twin.run_code("print(1)\n" + FOREVER, on_stdout=lambda _: began.set()))
            await began.wait()
            call.cancel()
            await asyncio.wait({call})
            assert call.cancelled()
            assert (await twin.run_code("'free'", timeout=20)).text == "free"

        in_loop(cancelled)


@check
def executions_with_a_name_run_once() -> None:
    with sandbox() as box:
        box.run_code("count = 0")
        for _ in range(2):
            assert box.run_code("count += 1; print('a'); count", execution_id="once").text == "1"
        assert box.attach_execution("once").text == "1"
        replayed = box.attach_execution("once", from_event=2)
        assert (replayed.logs.stdout, replayed.text) == ([], "1")


@check
def a_loop_is_not_blocked() -> None:
    async def run() -> None:
        async with await AsyncSandbox.create(timeout=120) as box:
            waiting = asyncio.create_task(
                box.run_code("import time, pathlib\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\n'gone'")
            )
            await box.files.write("go", "")  # on the same loop
            assert (await waiting).text == "gone"
            texts = await asyncio.gather(*(box.run_code(str(number)) for number in range(10)))
            assert [one.text for one in texts] == [str(number) for number in range(10)]

    in_loop(run)


@check
def threads_share_a_sandbox() -> None:
    with sandbox() as box, ThreadPoolExecutor(8) as threads:
        contexts = list(threads.map(lambda _: box.create_code_context(), range(3)))
        runs = [(context, number) for number in range(4) for context in contexts]
        texts = threads.map(lambda run: box.run_code(str(run[1]), context=run[0]).text, runs)
        assert list(texts) == [str(number) for _, number in runs]


@check
def files_of_some_megabytes() -> None:
    with sandbox() as box:
        box.files.write("whole", MEGABYTES)
        box.files.write("pieces", (MEGABYTES[at : at + 300_000] for at in range(0, len(MEGABYTES), 300_000)))
        assert box.files.read("whole", format="bytes") == MEGABYTES
        assert b"".join(box.files.read("pieces", format="stream")) == MEGABYTES

        async def twice() -> None:
            twin = await AsyncSandbox.connect(box.sandbox_id)

            async def pieces() -> Any:
                for at in range(0, len(MEGABYTES), 500_000):
                    yield MEGABYTES[at : at + 500_000]

            await twin.files.write("twin", pieces())
            stream = await twin.files.read("twin", format="stream")
            assert b"".join([piece async for piece in stream]) == MEGABYTES

        in_loop(twice)

        class Broken(Exception):
            pass

        def broken() -> Iterator[bytes]:
            yield b"half"
            raise Broken

        with pytest.raises(Broken):
            box.files.write("broken", broken())


@check
def commands_and_terminals() -> None:
    with sandbox() as box:
        assert box.commands.run("echo $((6 * 7))").stdout == "42\n"
        command = box.commands.run("cat", background=True, stdin=True)
        box.commands.send_stdin(command.pid, "hello\n")
        box.commands.close_stdin(command.pid)
        assert command.wait().stdout == "hello\n"
        left = box.commands.run("sleep 100", background=True)
        left.disconnect()
        assert left.pid in [process.pid for process in box.commands.list()]
        assert box.commands.kill(left.pid)
        terminal = box.pty.create(raybox.PtySize(24, 80))
        box.pty.send_stdin(terminal.pid, b"echo $((6 * 7)); exit\n")
        assert b"\r42\r\n" in b"".join(output for _, _, output in terminal if output)
        with ThreadPoolExecutor(1) as thread:
            watcher = box.files.watch_dir(".")
            thread.submit(box.files.write, "new", "").result()
            wait_until(lambda: any(event.name == "new" for event in watcher.get_new_events()), 10)
            watcher.stop()


# --- who calls -------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=0)
def in_task(box: Sandbox | None) -> tuple[str, str | None]:
    box = box or Sandbox.create(timeout=120)
    return box.sandbox_id, box.run_code("seen = globals().get('seen', 0) + 1; seen").text


@ray.remote(num_cpus=0)
class Plain:
    def use(self, box: Sandbox) -> Sandbox:
        box.run_code("seen = globals().get('seen', 0) + 1")
        return box


@ray.remote(num_cpus=0)
class Asynchronous:
    async def use(self, sandbox_id: str) -> list[str | None]:
        box = await raybox.connect_async().connect(sandbox_id)
        return [one.text for one in await asyncio.gather(*(box.run_code(f"seen + {number}") for number in range(3)))]


@check
def tasks_and_actors_pass_handles_on() -> None:
    with sandbox() as box:
        assert ray.get(in_task.remote(box), timeout=60) == (box.sandbox_id, "1")
        plain, asynchronous = Plain.remote(), Asynchronous.remote()  # type: ignore[attr-defined]
        assert ray.get(plain.use.remote(box), timeout=60).run_code("seen").text == "2"
        assert ray.get(asynchronous.use.remote(box.sandbox_id), timeout=60) == ["2", "3", "4"]
        for actor in (plain, asynchronous):
            ray.kill(actor)
    made, text = ray.get(in_task.remote(None), timeout=60)
    assert text == "1"
    assert Sandbox.kill(made)


@check
def the_pool_is_found_and_named() -> None:
    name = os.environ["POOL"]
    for pool in (raybox.connect(), raybox.connect(f"ray://{name}"), raybox.connect(transport="ray", pool=name)):
        with pickle.loads(pickle.dumps(pool)).create(timeout=60) as box:
            assert box.run_code("1").text == "1"
            assert [one.sandbox_id for one in pool.list().next_items()] == [box.sandbox_id]
    with pytest.raises(raybox.NotFoundException, match="'none'"):
        raybox.connect("ray://none").create()
    with pytest.raises(raybox.NotFoundException, match="'none'"):
        Sandbox.create(pool="none")
    with Sandbox.create(api_key=key, timeout=60) as box:
        assert [one.sandbox_id for one in http().list().next_items()] == [box.sandbox_id]


# --- faults ----------------------------------------------------------------------------------------------------------


def fronts() -> list[Any]:
    named = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return [ray.get_actor(name, namespace="raybox") for name in named if "-front-" in name]


def kill_front() -> None:
    (front,) = fronts()
    os.kill(ray.get(front.ping.remote()), signal.SIGKILL)


@check
def a_front_dies_in_the_middle() -> None:
    with sandbox() as box:
        box.files.write("big", MEGABYTES)
        stream = iter(box.files.read("big", format="stream"))
        next(stream)
        kill_front()
        with pytest.raises(raybox.RayboxError) as caught:
            b"".join(stream)
        assert caught.value.kind == "internal"
        assert box.run_code("1").text == "1"
        assert box.files.exists("big")


@check
def a_front_dies_with_a_create_and_no_second_sandbox_is_made() -> None:
    made = [Sandbox.create(timeout=120) for _ in range(6)]
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(Sandbox.create, timeout=120, metadata={"the": "one"})

        def status() -> dict[str, Any]:
            answer = httpx.get(f"{url}/raybox/status", headers={"X-API-KEY": key}, timeout=30)
            return dict(answer.json())

        wait_until(lambda: status()["claims_waiting"] == 1, 10, status)
        kill_front()
        http().kill(made[0].sandbox_id)
        box = waiting.result()
    found = [one for one in Sandbox.list(limit=100).next_items() if one.metadata == {"the": "one"}]
    assert [one.sandbox_id for one in found] == [box.sandbox_id]
    for one in (*made[1:], box):
        assert one.kill()


@check
def an_actor_dies_with_its_sandbox() -> None:
    box = Sandbox.create(timeout=120)
    info = box.sandbox_id
    name = f"{os.environ['POOL']}-sandbox-{info[1:13]}-{int(info[13:17], 36)}"
    actor: Any = ray.get_actor(name, namespace="raybox")
    pid: Any = ray.get(actor.ping.remote())

    def die(_: object) -> None:
        os.kill(pid, signal.SIGKILL)

    for _ in range(2):
        with pytest.raises(raybox.SandboxNotRunningException) as caught:
            box.run_code("print(1)\n" + FOREVER, on_stdout=die)
        assert (caught.value.kind, caught.value.cause, caught.value.should_mask_sample) == (
            "sandbox_lost",
            "internal",
            True,
        )
    assert not box.is_running()


@check
def nothing_is_left() -> None:
    def open_exchanges() -> int:
        return sum(ray.get([front.exchanges.remote() for front in fronts()]))

    wait_until(lambda: open_exchanges() == 0, 10, open_exchanges)
    wait_until(lambda: Sandbox.list().next_items() == [], 10, lambda: Sandbox.list().next_items())


def main() -> None:
    sys.modules["raybox_actors"] = sys.modules["raybox_cluster"] = None  # type: ignore[assignment]  # not to be had
    for name in ("RAYBOX_URL", "RAYBOX_API_KEY"):
        os.environ.pop(name, None)
    ray.init(logging_level=logging.ERROR, log_to_driver=False)
    for name, work in CHECKS.items():
        failure = ""
        try:
            work()
        except BaseException:
            failure = traceback.format_exc()
        print(json.dumps({"check": name, "failure": failure}), flush=True)


if __name__ == "__main__":
    main()
