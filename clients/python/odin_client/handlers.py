"""Functions that a program registers to be called with values of one kind, and the kinds."""

import logging
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Generic, Literal, TypeVar

from odin_client.errors import OdinError
from odin_client.messages import Gap, MarketStatus, Quote

log = logging.getLogger("odin_client")
_T = TypeVar("_T")
State = Literal["closed", "connecting", "connected", "reconnecting"]


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


class Listening:
    """What a program can listen to."""

    def __init__(self) -> None:
        self._quote_handlers = Handlers[Quote]()
        self._status_handlers = Handlers[MarketStatus]()
        self._gap_handlers = Handlers[Gap]()
        self._state_handlers = Handlers[State]()
        self._error_handlers = Handlers[OdinError]()

    def on_quote(self, handler: Callable[[Quote], object]) -> Callable[[], None]:
        """Call a plain function with every quote; returns what removes it again.

        Handlers run in the event loop and must be quick; what they raise is logged. Register them
        before connecting to miss nothing of what the session restores.
        """
        return self._quote_handlers.add(handler)

    def on_status(self, handler: Callable[[MarketStatus], object]) -> Callable[[], None]:
        """Call a plain function with every market status, asked for or pushed."""
        return self._status_handlers.add(handler)

    def on_gap(self, handler: Callable[[Gap], object]) -> Callable[[], None]:
        """Call a plain function with every stretch of time of which the server's feed delivered
        nothing."""
        return self._gap_handlers.add(handler)

    def on_state(self, handler: Callable[[State], object]) -> Callable[[], None]:
        """Call a plain function with every new state of the client."""
        return self._state_handlers.add(handler)

    def on_error(self, handler: Callable[[OdinError], object]) -> Callable[[], None]:
        """Call a plain function with errors that no request of the program waits for: why a
        connection was lost, what could not be restored, messages that were not understood."""
        return self._error_handlers.add(handler)
