"""A venue that exists only in tests: a feed that follows a script, and a decoder with a memory."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import pytest

from odin.errors import reflect
from odin.feeds import sources
from odin.feeds.base import Emit, Report, ignore
from odin.feeds.credentials import CredentialSource
from odin.feeds.socket import Connector
from odin.feeds.sources import Venue
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, Mode, Tick
from odin.settings import KiteSettings

SBIN = InstrumentKey("NSE", "CM", 3045)
TCS = InstrumentKey("NSE", "CM", 11536)


class FakeDecoder:
    """Understands "TOKEN PRICE", and "TOKEN +STEP" from the last price of the connection."""

    def __init__(self, settings: KiteSettings, indices: Mapping[str, InstrumentKey]) -> None:
        for text in settings.indices:
            if not text[0].isdecimal():
                raise ValueError(f"an index must have a number, was {reflect(text)}")
        self.malformed = 0
        self._last: dict[int, float] = {}

    def reset(self) -> None:
        self._last.clear()

    def ticks(self, data: bytes | str, received_ms: int) -> Iterator[Tick]:
        text = data if isinstance(data, str) else data.decode()
        for part in text.splitlines():
            try:
                token, price = part.split()
                key = InstrumentKey("NSE", "CM", int(token))
                base = self._last[key.token] if price.startswith("+") else 0.0
                self._last[key.token] = ltp = base + float(price)
            except (ValueError, KeyError):
                self.malformed += 1
            else:
                yield Tick(key, received_ms, ltp)


class FakeVenueFeed:
    """Does what `script` says."""

    name = "kite"
    is_simulated = False
    script: ClassVar[Callable[["FakeVenueFeed", Emit, Report], Awaitable[None]]]

    def __init__(
        self,
        settings: KiteSettings,
        *,
        credentials: CredentialSource,
        indices: Mapping[str, InstrumentKey],
        connector: Connector,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.credentials = credentials
        self.indices = indices
        self.connector = connector
        self.metrics = metrics
        self.wanted: dict[InstrumentKey, Mode] = {}

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        await type(self).script(self, emit, report)

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        self.wanted.update((item.key, mode) for item in instruments)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        for key in keys:
            self.wanted.pop(key, None)


class FakeOdinFeed(FakeVenueFeed):
    """The same under the other name."""

    name = "odin"


Script = Callable[[FakeVenueFeed, Emit, Report], Awaitable[None]]


def install(monkeypatch: pytest.MonkeyPatch, script: Script | None = None) -> None:
    """Let the venue stand in for Kite and ODIN; both follow the script."""
    kite, odin = Venue(FakeVenueFeed, FakeDecoder), Venue(FakeOdinFeed, FakeDecoder)
    monkeypatch.setattr(sources, "VENUES", {"odin": lambda: odin, "kite": lambda: kite})
    if script is not None:
        monkeypatch.setattr(FakeVenueFeed, "script", staticmethod(script), raising=False)
