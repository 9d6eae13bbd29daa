"""The blocking half of a batch: its thread ends with it, however it is left."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from raybox import _batch_async, _batch_sync
from raybox._batch import ItemResult
from raybox._config import ConnectionConfig


def test_ctrl_c_ends_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, closed = threading.Event(), threading.Event()

    async def never(*_: Any) -> AsyncGenerator[ItemResult, None]:
        try:
            waiting.set()
            await asyncio.get_running_loop().create_future()
            yield None  # type: ignore[misc]  # not reached
        finally:
            closed.set()

    def interrupt() -> None:
        waiting.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(_batch_async, "exec_many", never)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(iter(_batch_sync.exec_many(ConnectionConfig.resolve({"api_key": "k" * 8}), {}, ["1"])))
    assert closed.is_set()
    assert not [one for one in threading.enumerate() if one.name == "raybox-batch"]
