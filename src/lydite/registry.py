"""One idea for everything that has a name: a table from names to things, and a kind error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lydite.errors import ConfigError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and the things they stand for.

    Args:
        kind: what the things are, in the singular, for messages ("step", "network").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument as `name`."""

        def register(thing: T) -> T:
            assert name not in self._things, f"two things are called {name}"
            self._things[name] = thing
            return thing

        return register

    def get(self, name: str) -> T:
        """Return what `name` stands for.

        Raises:
            ConfigError: no such name; the message suggests the nearest one.
        """
        if name not in self._things:
            raise ConfigError(unknown_name(self.kind, name, self._things))
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __contains__(self, name: object) -> bool:
        return name in self._things
