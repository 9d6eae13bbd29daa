"""Servers inside, reached through the gateway by the host's name or by headers."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import httpx

from .programs import Client, program, same, that

SERVER = (Path(__file__).parents[1] / "websocket_server.py").read_text()


async def ask(sandbox: Any, port: int, path: str = "/", **headers: str) -> httpx.Response:
    """By the name that `get_host` gives, sent to where the pool is: no DNS."""
    async with httpx.AsyncClient(timeout=30) as http:
        url = os.environ["E2B_API_URL"] + path
        return await http.get(url, headers={"Host": sandbox.get_host(port)} | headers)


async def until_up(sandbox: Any, port: int, **headers: str) -> httpx.Response:
    deadline = time.monotonic() + 20
    while (answer := await ask(sandbox, port, **headers)).status_code == 502:
        that(time.monotonic() < deadline, f"it comes up: {answer.text}")
        await asyncio.sleep(0.05)
    return answer


@program
async def get_host(c: Client) -> None:
    sandbox = await c.sandbox()
    same(sandbox.get_host(8000), f"8000-{sandbox.sandbox_id}.{os.environ['E2B_DOMAIN']}")


@program
async def port_http(c: Client) -> None:
    sandbox = await c.create()
    await c.done(sandbox.files.write("site/index.html", "<h1>hi</h1>"))
    await c.done(sandbox.commands.run("python3 -m http.server 8000 --directory site", background=True))
    same((await until_up(sandbox, 8000)).text, "<h1>hi</h1>")
    async with httpx.AsyncClient(timeout=30) as http:
        routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
        same((await http.get(os.environ["E2B_API_URL"], headers=routing)).text, "<h1>hi</h1>")


@program
async def port_closed(c: Client) -> None:
    answer = await ask(await c.sandbox(), 9)
    same((answer.status_code, answer.json()["message"]), (502, "The sandbox is running but port is not open"))


@program
async def port_private(c: Client) -> None:
    sandbox = await c.create(network={"allow_public_traffic": False})
    await c.done(sandbox.commands.run("python3 -m http.server 8000", background=True))
    same((await ask(sandbox, 8000)).status_code, 403)
    token = {"E2B-Traffic-Access-Token": sandbox.traffic_access_token}
    same((await until_up(sandbox, 8000, **token)).status_code, 200)
    same((await c.done(sandbox.run_code("1 + 1"))).text, "2")


@program
async def port_websocket(c: Client) -> None:
    sandbox = await c.sandbox()
    await c.done(sandbox.files.write("websocket_server.py", SERVER))
    handle = await c.done(sandbox.commands.run("python3 websocket_server.py", background=True))
    deadline = time.monotonic() + 20
    url = httpx.URL(os.environ["E2B_API_URL"])
    request = (
        f"GET / HTTP/1.1\r\nHost: {sandbox.get_host(8765)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    while True:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request.encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        if b" 502 " not in head.splitlines()[0] or time.monotonic() > deadline:
            break
        writer.close()
        await asyncio.sleep(0.05)
    that(head.startswith(b"HTTP/1.1 101 "), f"it is upgraded: {head.splitlines()[0]!r}")
    that(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, "the key is answered")
    writer.write(b"\x81\x82\0\0\0\0hi")
    same(await asyncio.wait_for(reader.readexactly(4), 20), b"\x81\x02hi")
    writer.close()
    await c.done(handle.kill())
