"""Functions that a program registers to be called with values of one kind."""

import logging
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Generic, TypeVar

log = logging.getLogger("odin_client")
_T = TypeVar("_T")


class Handlers(Generic[_T]):
    """Registered functions, called in the order of registration; one that fails is logged."""

    def __init__(self) -> None:
        self._handlers: list[Callable[[_T], object]] = []

    def add(self, handler: Callable[[_T], object]) -> Callable[[], None]:
        """Register a plain function; returns what removes it again."""
        if iscoroutinefunction(handler):
            raise TypeError("a handler must be a plain function: nothing would await a coroutine")
        self._handlers.append(handler)

        def remove() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return remove

    def call(self, value: _T) -> None:
        """Call every handler with the value."""
        for handler in tuple(self._handlers):
            try:
                handler(value)
            except Exception:
                log.exception("a handler failed")
