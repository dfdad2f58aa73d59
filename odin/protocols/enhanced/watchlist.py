"""The stocks of one client: what it holds, in which mode, and which of them a request names.

In memory only: who changes it has made the change durable before. Thousands of clients hold the
same stocks, so keys and symbols are the registry's own objects where they can be.
"""

from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from odin.market.instruments import InstrumentRegistry, Resolution, ascii_upper
from odin.model import InstrumentKey, Mode, Subscription

_NO_MODES: Final[Mapping[InstrumentKey, Mode]] = MappingProxyType({})


class Watchlist:
    """In the order they were subscribed, each with the symbol it had then."""

    __slots__ = ("_modes", "_registry", "_symbols")

    def __init__(self, registry: InstrumentRegistry) -> None:
        self._registry = registry
        self._symbols: dict[InstrumentKey, str] = {}
        self._modes = _NO_MODES
        """Of those in another mode than quote. Most clients have none, and share this one."""

    def __len__(self) -> int:
        return len(self._symbols)

    def __iter__(self) -> Iterator[InstrumentKey]:
        return iter(self._symbols)

    def __contains__(self, key: object) -> bool:
        return key in self._symbols

    def keys(self) -> KeysView[InstrumentKey]:
        """Return a view of what is held."""
        return self._symbols.keys()

    def modes(self, keys: Iterable[InstrumentKey]) -> list[Mode]:
        """Return the mode of each."""
        modes = self._modes
        return [modes.get(key, "quote") for key in keys] if modes else ["quote" for _ in keys]

    def mode(self, key: InstrumentKey) -> Mode:
        """Return how much of the stock's quotes is wanted."""
        return self._modes.get(key, "quote")

    def name(self, key: InstrumentKey) -> str:
        """Return the symbol of a stock that is listed or held."""
        instrument = self._registry.get(key)
        return self._symbols[key] if instrument is None else instrument.symbol

    def load(self, held: Iterable[Subscription]) -> None:
        """Hold what the store had, and nothing else."""
        self._symbols = dict(map(self._shared, held))
        self._modes = {item.key: item.mode for item in held if item.mode != "quote"} or _NO_MODES

    def _shared(self, item: Subscription) -> tuple[InstrumentKey, str]:
        listed = self._registry.get(item.key)
        if listed is None or listed.symbol != item.symbol:
            return item.key, item.symbol
        return listed.key, listed.symbol

    def add(self, symbols: Mapping[InstrumentKey, str], mode: Mode) -> None:
        """Put new stocks at the end."""
        self._symbols.update(symbols)
        if mode != "quote":
            self.change(symbols, mode)

    def change(self, keys: Iterable[InstrumentKey], mode: Mode) -> None:
        """Hold these in another mode, in their places."""
        modes = {**self._modes, **dict.fromkeys(keys, mode)}
        self._modes = {key: mode for key, mode in modes.items() if mode != "quote"} or _NO_MODES

    def remove(self, keys: Iterable[InstrumentKey]) -> None:
        """Let go of stocks that are held."""
        gone = set(keys)
        for key in gone:
            del self._symbols[key]
        if not self._modes.keys().isdisjoint(gone):
            left = {key: mode for key, mode in self._modes.items() if key not in gone}
            self._modes = left or _NO_MODES

    def resolve(
        self, names: Sequence[str | int], *, among_held: bool = False
    ) -> tuple[dict[InstrumentKey, Resolution], list[Resolution]]:
        """Return what is named: found by key, and what failed; each once, in order.

        among_held: names that the registry does not know are looked for among what is held, so
        that an instrument that vanished from the master can still be unsubscribed.
        """
        held = self._held_names() if among_held else {}
        found: dict[InstrumentKey, Resolution] = {}
        failed: dict[str, Resolution] = {}
        for item in self._registry.resolve_many(names):
            if item.instrument is not None:
                found.setdefault(item.instrument.key, item)
            elif (key := held.get(ascii_upper(item.stock.strip()))) is not None:
                found.setdefault(key, item._replace(label=self._symbols[key]))
            else:
                failed.setdefault(item.stock, item)
        return found, list(failed.values())

    def _held_names(self) -> dict[str, InstrumentKey]:
        """Return what is held but no longer listed, by symbol and by token."""
        find = self._registry.get
        names: dict[str, InstrumentKey] = {}
        for key, symbol in self._symbols.items():
            if find(key) is None:
                names[symbol] = names[str(key.token)] = key
        return names

    def fields(self, is_stale: Callable[[InstrumentKey], bool]) -> dict[str, object]:
        """Return the `data` of a subscriptions message."""
        keys = list(self._symbols)
        names = {key: self.name(key) for key in keys}
        find = self._registry.get
        return {
            "subscribed_tokens": [str(key.token) for key in keys],
            "subscribed_symbols": list(names.values()),
            "subscribed_exchanges": [key.exchange for key in keys],
            "subscribed_segments": [key.segment for key in keys],
            "subscribed_modes": [self.mode(key) for key in keys],
            "total_subscribed": len(keys),
            "unavailable_stocks": [name for key, name in names.items() if find(key) is None],
            "stale_stocks": [name for key, name in names.items() if is_stale(key)],
        }
