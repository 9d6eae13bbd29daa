"""A batch whose server says nothing more ends a little after its time."""

from __future__ import annotations

import asyncio

import pytest

from raybox import _batch_async
from raybox._config import ConnectionConfig

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
async def test_every_item_is_past_its_deadline(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batch_async, "LATE_S", 0.1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        while await reader.read(65_536):
            pass
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        config = ConnectionConfig.resolve({"api_key": "k" * 8, "api_url": url})
        results = [one async for one in _batch_async.exec_many(config, {"deadline_s": 0.2}, ["1", "2", "3"])]
    assert [(one.index, one.status) for one in results] == [(0, "deadline"), (1, "deadline"), (2, "deadline")]
