"""Actor classes that any process of the cluster can hold a handle of, also one that has no raybox.

Ray gives whoever looks an actor up its class, and where this cannot be imported the handle is good for nothing. So what
Ray is given is a shell: made here at run time, hence pickled whole, and knowing nothing but the names of the methods.
The class itself is imported where the actor runs. For callers who have it, the first call is 0.3 s sooner too.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import ray


def shell(where: str) -> type:
    """A class whose instances hold one of the class at `where` ("module:Class") and hand all public methods on to it,
    each in its concurrency group."""
    module, _, name = where.partition(":")
    cls = getattr(importlib.import_module(module), name)

    def __init__(self: Any, *arguments: object, **options: object) -> None:  # noqa: N807  # it becomes one
        import importlib

        self.actor = getattr(importlib.import_module(module), name)(*arguments, **options)

    methods = inspect.getmembers(cls, inspect.isfunction)
    members = {method: _handed_on(method, function) for method, function in methods if not method.startswith("_")}
    return type(name, (), {"__init__": __init__, "__doc__": cls.__doc__, "__module__": __name__, **members})


def _handed_on(method: str, function: Callable[..., Any]) -> Any:
    if inspect.iscoroutinefunction(function):

        async def call(self: Any, *arguments: object, **options: object) -> object:
            return await getattr(self.actor, method)(*arguments, **options)
    else:

        async def call(self: Any, *arguments: object, **options: object) -> object:
            return getattr(self.actor, method)(*arguments, **options)

    call.__name__ = method
    call.__doc__ = function.__doc__
    group = getattr(function, "__ray_concurrency_group__", None)
    return call if group is None else ray.method(concurrency_group=group)(call)


def concurrency_groups(where: str) -> dict[str, int]:
    """Of the class at `where`: its module's CONCURRENCY_GROUPS."""
    groups: dict[str, int] = getattr(importlib.import_module(where.partition(":")[0]), "CONCURRENCY_GROUPS", {})
    return groups
