"""What programs of the Python clients are written with: one text for `Sandbox` and `AsyncSandbox`, old and new.

A program is a coroutine function named for its capability. It ends normally where the client does what E2B's documents
say. What it awaits through `Client.done` may be a value (of the blocking class) or an awaitable (of the other).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import e2b
import e2b_code_interpreter

#: Seconds that a sandbox may live if a program forgets it.
LIFE_S = 120

Program = Callable[["Client"], Awaitable[None]]
PROGRAMS: dict[str, Program] = {}


class Differs(Exception):
    """It works, but not as on E2B; the message says how."""


class Absent(Exception):
    """This version of the client has no such call or option."""


class Mismatch(Exception):
    """The client answered something else."""


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def same(actual: object, expected: object) -> None:
    if actual != expected:
        raise Mismatch(f"{actual!r} instead of {expected!r}")


def that(truth: object, what: str) -> None:
    if not truth:
        raise Mismatch(f"not so: {what}")


def needs(owner: Any, name: str, *options: str) -> None:
    """Raises Absent unless `owner` has the call, and the call the options."""
    call = getattr(owner, name, None)
    if call is None:
        raise Absent(name)
    if missing := [option for option in options if option not in inspect.signature(call).parameters]:
        raise Absent(", ".join(missing))


class Client:
    """One of the two classes, and the sandboxes that programs made with it."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self.Sandbox: Any = e2b_code_interpreter.AsyncSandbox if asynchronous else e2b_code_interpreter.Sandbox
        self.made: list[Any] = []
        self._shared: Any = None

    def of_e2b(self, name: str) -> Any:
        """`Volume` or `AsyncVolume`, and the like."""
        found = getattr(e2b, f"Async{name}" if self.asynchronous else name, None)
        if found is None:
            raise Absent(name)
        return found

    async def done(self, value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    async def create(self, **options: Any) -> Any:
        sandbox = await self.done(self.Sandbox.create(**{"timeout": LIFE_S, **options}))
        self.made.append(sandbox)
        return sandbox

    async def sandbox(self) -> Any:
        """One that programs share which leave it as it was: each works in a folder or context of its own."""
        if self._shared is None or not await self.done(self._shared.is_running()):
            self._shared = await self.create()
        return self._shared

    async def raised(self, call: Callable[[], Any]) -> Exception:
        """What the call raises; Mismatch if it does not."""
        try:
            answer = await self.done(call())
        except Exception as error:
            return error
        raise Mismatch(f"{answer!r} instead of an error")

    async def end(self, *, all_of_them: bool) -> None:
        """Kill what programs made, but the shared one unless told."""
        for sandbox in self.made:
            if all_of_them or sandbox is not self._shared:
                await self.done(sandbox.kill())
        self.made = [] if all_of_them else [one for one in self.made if one is self._shared]


def kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
