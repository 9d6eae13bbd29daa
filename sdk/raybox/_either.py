"""Methods that work on an instance and, under the same name, on the class with a sandbox's id."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

S = TypeVar("S")
P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R2 = TypeVar("R2")


class Either(Generic[S, P, R, Q, R2]):
    """`sandbox.kill()` calls `method`; `Sandbox.kill("id")` calls `of_class`; `Sandbox.kill(sandbox)` is the first."""

    def __init__(
        self,
        method: Callable[Concatenate[S, P], R],
        of_class: Callable[Concatenate[type[S], Q], R2],
    ) -> None:
        self._method = method
        # Inside the class body a classmethod is still the bare descriptor, which cannot be called.
        self._of_class: Callable[..., Any] = getattr(of_class, "__func__", of_class)
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type[S]) -> Callable[Q, R2]: ...
    @overload
    def __get__(self, instance: S, owner: type[S] | None = None) -> Callable[P, R]: ...
    def __get__(self, instance: S | None, owner: type[S] | None = None) -> Callable[..., Any]:
        if instance is not None:
            return functools.partial(self._method, instance)
        assert owner is not None  # Python passes at least one of them

        @functools.wraps(self._method)
        def of_class(*args: Any, **options: Any) -> Any:
            if args and isinstance(args[0], owner):
                return self._method(*args, **options)
            return self._of_class(owner, *args, **options)

        return of_class


def also_on_class(
    of_class: Callable[Concatenate[type[S], Q], R2],
) -> Callable[[Callable[Concatenate[S, P], R]], Either[S, P, R, Q, R2]]:
    """Decorates a method; `of_class` is what its name means on the class."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Either[S, P, R, Q, R2]:
        return Either(method, of_class)

    return decorate
