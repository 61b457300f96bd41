"""The one registry: what a name passed as a string (by a notebook parameter, say) may stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

Entry = TypeVar("Entry")
Filed = TypeVar("Filed")


class Registry(Generic[Entry]):
    """Names to objects, filled by a decorator; an unknown name raises ``ValueError`` listing the valid ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Filed], Filed]:
        """Decorator that files the decorated object under ``name``."""

        def add(entry: Filed) -> Filed:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = cast("Entry", entry)  # as itself for its own callers, as an entry for everyone else
            return entry

        return add

    def get(self, name: str) -> Entry:
        """The object called ``name``; ``ValueError`` with the list of names if there is none."""
        if not isinstance(name, str) or name not in self._entries:
            raise ValueError(f"unknown {self.kind} {name!r}; valid names: {', '.join(self.names())}")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)
