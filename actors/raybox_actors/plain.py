"""What crosses to callers who have no raybox to unpickle it with: builtins alone (docs/protocol.md, "Over Ray")."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable
from typing import TypeAlias, TypeVar

from raybox_actors.errors import InternalError, NoCapacity, NotFound, RayboxError, SandboxLost
from raybox_actors.values import EventBatch

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

#: An error as data: `error` (its class), `kind`, `message`, `retryable`, `should_mask_sample`, and what it has besides.
PlainError: TypeAlias = dict[str, object]
#: Of an EventBatch: first_seq, count, lines, done.
PlainBatch: TypeAlias = tuple[int, int, bytes, bool]


async def plainly(work: Awaitable[Value]) -> Value | PlainError:
    """What `work` gives, or what it raises as data. No value is a dict."""
    try:
        return await work
    except RayboxError as error:
        return plain_error(error)
    except Exception as error:
        logger.exception("for a caller over Ray")
        return plain_error(InternalError(f"{type(error).__name__}: {error}"[:1000]))


def plain_error(error: RayboxError) -> PlainError:
    fields: PlainError = {
        "error": type(error).__name__,
        "kind": error.kind,
        "message": str(error),
        "retryable": error.retryable,
        "should_mask_sample": error.should_mask_sample,
    }
    if isinstance(error, SandboxLost):
        fields["cause"] = error.cause
    elif type(error) is NotFound:
        fields["what"], fields["name"] = error.what, error.name
    elif isinstance(error, NoCapacity):
        fields["retry_after_s"] = error.retry_after_s
    return fields


def plain_batch(batch: EventBatch) -> PlainBatch:
    return batch.first_seq, batch.count, batch.lines, batch.done


class Left:
    """The last `most` executions whose callers left before they began, each with its sandbox: actors serve many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add(self, sandbox_id: str, execution_id: str) -> None:
        self._known[sandbox_id, execution_id] = None
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def has(self, sandbox_id: str, execution_id: str) -> bool:
        return (sandbox_id, execution_id) in self._known
