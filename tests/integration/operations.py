"""One client that has every operation under way at the same time, in a process of its own, so that it can be killed.

Run as a program: `python -m tests.integration.operations SANDBOX_ID`; where the pool is, the environment says. It
prints a JSON line for whatever happens: [operation, "begun", value]; [operation, "had", value] of what was
acknowledged; [operation, "ended", words] when an operation ended, whether by itself or by an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
from websockets.asyncio.client import connect

from raybox import AsyncSandbox, PtySize

#: Of what is created here: whatever a create left behind whose answer was lost is gone after it.
SHORT_LIFE_S = 4
#: Counts, so that its life can be seen, and waits for a word.
COUNTER = "n=0; while ! [ -e word ]; do n=$((n+1)); echo $n > count; sleep 0.05; done; echo over"
#: Keeps every line that it gets.
LISTENER = "cat > heard"
#: Servers of the kernel: one sends without end, one echoes WebSocket frames (tests/integration/test_envd_ports.py).
ENDLESS_PORT, WEBSOCKET_PORT = 8700, 8765
CELL = """
import time
try:
    print('up', flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    open('interrupted', 'w').close()
    raise
"""
NO_LIMIT = 0


def say(operation: str, what: str, value: object = None) -> None:
    print(json.dumps([operation, what, value]), flush=True)


class Client:
    def __init__(self, sandbox: AsyncSandbox) -> None:
        self.sandbox = sandbox
        self.url = os.environ["RAYBOX_URL"]
        self.http = httpx.AsyncClient(base_url=self.url, timeout=None)

    def routing(self, port: int) -> dict[str, str]:
        return {"E2b-Sandbox-Id": self.sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}

    async def upload(self) -> None:
        async def endless() -> AsyncIterator[bytes]:
            for number in range(1_000_000):
                yield bytes(10_000)
                if number == 20:
                    say("upload", "begun")
                await asyncio.sleep(0.005)

        await self.sandbox.files.write("uploaded", endless(), request_timeout=0)
        say("upload", "had")

    async def download(self) -> None:
        async for _ in await self.sandbox.files.read("big", "stream"):
            say("download", "begun")
            await asyncio.sleep(0.05)

    async def listing(self) -> None:
        while True:
            assert len(await self.sandbox.files.list("many")) == 2000
            say("listing", "begun")

    async def watch(self) -> None:
        ended: asyncio.Queue[Exception | None] = asyncio.Queue()
        await self.sandbox.files.watch_dir(
            ".", lambda _: say("watch", "begun"), on_exit=ended.put_nowait, timeout=NO_LIMIT
        )
        if (error := await ended.get()) is not None:
            raise error

    async def process(self) -> None:
        handle = await self.sandbox.commands.run(COUNTER, background=True, timeout=NO_LIMIT)
        say("process", "begun", handle.pid)
        connected = await self.sandbox.commands.connect(handle.pid, timeout=NO_LIMIT)
        say("connect", "begun")
        await asyncio.gather(handle.wait(), connected.wait())

    async def stdin(self) -> None:
        handle = await self.sandbox.commands.run(LISTENER, background=True, stdin=True, timeout=NO_LIMIT)
        say("stdin", "begun", handle.pid)
        for number in range(1_000_000):
            await handle.send_stdin(f"{number}\n")
            say("stdin", "had", number)

    async def terminal(self) -> None:
        handle = await self.sandbox.pty.create(PtySize(24, 80), lambda _: None, timeout=NO_LIMIT)
        say("terminal", "begun", handle.pid)
        await handle.wait()

    async def port(self) -> None:
        async with self.http.stream("GET", "/", headers=self.routing(ENDLESS_PORT)) as answer:
            async for _ in answer.aiter_raw():
                say("port", "begun")

    async def websocket(self) -> None:
        address = self.url.replace("http", "ws")
        async with connect(address, additional_headers=self.routing(WEBSOCKET_PORT), proxy=None) as stream:
            while True:
                await stream.send("x")
                assert await stream.recv() == "x"
                say("websocket", "begun")
                await asyncio.sleep(0.01)

    async def execution(self) -> None:
        context = await self.sandbox.create_code_context()
        execution = await self.sandbox.run_code(
            CELL, context=context, timeout=0, on_stdout=lambda _: say("execution", "begun", context.id)
        )
        say("execution", "had", str(execution.error))

    async def creation(self) -> None:
        while True:
            made = await AsyncSandbox.create(timeout=SHORT_LIFE_S)
            say("creation", "had", made.sandbox_id)
            say("creation", "begun")
            say("killing", "begun", made.sandbox_id)
            await made.kill()
            say("killing", "had", made.sandbox_id)


OPERATIONS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    work.__name__: work
    for work in (
        Client.upload, Client.download, Client.listing, Client.watch, Client.process, Client.stdin, Client.terminal,
        Client.port, Client.websocket, Client.execution, Client.creation,
    )
}  # fmt: skip


async def main(sandbox_id: str) -> None:
    client = Client(await AsyncSandbox.connect(sandbox_id))

    async def run(name: str) -> None:
        try:
            await OPERATIONS[name](client)
        except Exception as error:
            say(name, "ended", f"{type(error).__name__}: {error}")
        else:
            say(name, "ended", "")

    await asyncio.gather(*map(run, OPERATIONS))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
