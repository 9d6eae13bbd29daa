"""A request whose body is sent while its answer arrives: directly, by TLS, through proxies, and what breaks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from raybox import InvalidArgumentException, _duplex, _http
from raybox._requests import Request
from raybox._responses import TransportFailure

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each chunk back as soon as it is there, and the target first."""
    target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    writer.write(HEAD + b"%x\r\n%b\r\n" % (len(target), target))
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunk = await reader.readexactly(size + 2)
        writer.write(b"%x\r\n%b" % (size, chunk))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def request_of(url: str, body: AsyncIterator[bytes], proxy: str | None = None) -> Request:
    return Request("exec_many", None, None, "POST", url, (("A", "b"),), body, 5.0, None, proxy=proxy, idle_s=5.0)


async def talk(url: str, proxy: str | None = None) -> bytes:
    """Say something only when the answer to what was said before is there; gives the target that the server saw."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        for word in (b"one", b"two" * 50_000, b"three"):
            yield word
            said = b""
            while len(said) < len(word):
                said += await heard.get()
            assert said == word

    stream = await _duplex.open_duplex(request_of(url, body(), proxy))
    assert stream.status == 200
    target = await stream.read()
    while piece := await stream.read():
        heard.put_nowait(piece)
    await stream.close()
    return target


async def test_both_directions_go_on_at_once() -> None:
    async with serving(echo) as port:
        assert await talk(f"http://127.0.0.1:{port}/a?b=c") == b"/a?b=c"


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, first: bytes) -> None:
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    there_writer.write(first)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For 127.0.0.1, signed by itself; key and certificate in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


async def test_through_a_proxy_and_a_tunnel(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    authorized: list[bool] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n")
        asked.append(line)
        verb, target, _ = line.split(b" ", 2)
        port = int(target.removeprefix(b"http://").partition(b"/")[0].rpartition(b":")[2])
        rest = await reader.readuntil(b"\r\n\r\n")
        authorized.append(b"\r\nProxy-Authorization: Basic bWU6cEB3\r\n" in b"\r\n" + rest)
        if verb == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            line = rest = b""
        await forward(reader, writer, port, line + rest)

    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    client_side = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(_http, "_tls", lambda: client_side)
    async with serving(echo) as plain, serving(echo, server_side) as secure, serving(proxy) as by:
        url = f"http://127.0.0.1:{plain}/x"
        assert await talk(url, f"http://127.0.0.1:{by}") == url.encode()
        assert await talk(f"https://127.0.0.1:{secure}/y") == b"/y"
        assert await talk(f"https://127.0.0.1:{secure}/z", f"http://127.0.0.1:{by}") == b"/z"
        assert asked[-1].startswith(b"CONNECT 127.0.0.1:")
        assert authorized == [False, False]
        assert await talk(url, f"http://me:p%40w@127.0.0.1:{by}") == url.encode()
        assert await talk(f"https://127.0.0.1:{secure}/z", f"http://me:p%40w@127.0.0.1:{by}") == b"/z"
        assert authorized == [False, False, True, True]
        monkeypatch.setattr(_http, "_tls", ssl.create_default_context)
        with pytest.raises(TransportFailure) as untrusted:
            await talk(f"https://127.0.0.1:{secure}/y")
        assert untrusted.value.stage == "connect"


async def never() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("said", "stage"),
    [(b"", "broken"), (b"nonsense\r\n\r\n", "broken"), (HEAD + b"5\r\nab", "broken"), (HEAD + b"zz\r\n", "broken")],
)
async def test_what_breaks_off_is_told(said: bytes, stage: str) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async with serving(break_off) as port:
        stream = None
        with pytest.raises(TransportFailure) as failure:  # noqa: PT012  # before the answer begins, or in its midst
            stream = await _duplex.open_duplex(request_of(f"http://127.0.0.1:{port}/", never()))
            while await stream.read():
                pass
        if stream is not None:
            await stream.close()
    assert failure.value.stage == stage


async def test_no_batch_goes_through_another_kind_of_proxy() -> None:
    with pytest.raises(InvalidArgumentException, match="socks5 proxy"):
        await _duplex.open_duplex(request_of("http://127.0.0.1:1/", never(), "socks5://127.0.0.1:1"))


async def test_nobody_there() -> None:
    async with serving(echo) as port:
        pass
    with pytest.raises(TransportFailure) as failure:
        await _duplex.open_duplex(request_of(f"http://127.0.0.1:{port}/", never()))
    assert failure.value.stage == "connect"
