"""A trial of one feed: connect, subscribe to a few instruments, look, and say how it went.

For an operator with new credentials, before a server is started with them. The feed runs once,
without a supervisor: what goes wrong is told, not retried.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from odin.clock import ist_datetime_text
from odin.errors import FeedError, FeedRejected, FeedUnavailable
from odin.feeds.base import LinkEvent
from odin.feeds.sources import Source
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, MarketStatus, Tick

SKEW_MS = 5_000
"""A difference between the exchange's clock and ours that is worth a word."""
MAX_NAMED = 10
"""Instruments that are named one by one."""


class Finding(NamedTuple):
    """What a trial has shown."""

    is_well: bool
    verdict: str


class Trial:
    """Runs one feed for a while and judges what it brings.

    show: takes a line for everything worth seeing.
    now_ms: the wall clock.
    lines: how many ticks are shown.
    """

    def __init__(
        self,
        source: Source,
        instruments: Sequence[Instrument],
        metrics: Metrics,
        *,
        now_ms: Callable[[], int],
        show: Callable[[str], None],
        lines: int = 50,
    ) -> None:
        self._source = source
        self._instruments = {item.key: item for item in instruments}
        self._metrics = metrics
        self._now_ms = now_ms
        self._show = show
        self._lines_left = lines
        self._began_ms = 0
        self._has_login = False
        self._ready_ms: int | None = None
        self._first_ms: int | None = None
        self._last: dict[InstrumentKey, Tick] = {}
        self._ticks = 0
        self._skew_ms: int | None = None
        """Of the freshest tick: others may be the last of a quiet instrument."""

    async def run(self, seconds: float, market: MarketStatus) -> Finding:
        """Look for so many seconds; `market` is its state now. Once only."""
        feed = self._source.feed
        feed.want(list(self._instruments.values()), "full")
        self._began_ms = self._now_ms()
        failure: FeedError | None = None
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await feed.run(self._take, self._hear)
        except TimeoutError:
            if not limit.expired():
                failure = FeedUnavailable("it took too long to answer")
        except FeedError as error:
            failure = error
        finally:
            if self._source.capture is not None:
                await self._source.capture.close()
        took_s = (self._now_ms() - self._began_ms) / 1000
        return self._judge(took_s, market, failure)

    def _hear(self, event: LinkEvent) -> None:
        after_s = (self._now_ms() - self._began_ms) / 1000
        if event == "login":
            self._has_login = True
            self._show(f"connected after {after_s:.1f} s, logging in")
        elif event == "ready":
            self._ready_ms = self._now_ms()
            self._show(f"accepted after {after_s:.1f} s, {len(self._instruments)} asked for")

    def _take(self, tick: Tick) -> None:
        now_ms = self._now_ms()
        if self._first_ms is None:
            self._first_ms = now_ms
        self._ticks += 1
        skew_ms = now_ms - tick.exchange_ms
        self._skew_ms = skew_ms if self._skew_ms is None else min(self._skew_ms, skew_ms)
        self._last[tick.key] = tick
        if self._lines_left > 0:
            self._lines_left -= 1
            self._show(self._line(tick))
            if not self._lines_left:
                self._show("… and more, which are only counted")

    def _line(self, tick: Tick) -> str:
        item = self._instruments.get(tick.key)
        name = ":".join(map(str, tick.key)) if item is None else item.label
        parts = [ist_datetime_text(tick.exchange_ms), name, f"{tick.ltp:g}"]
        if tick.volume is not None:
            parts.append(f"volume {tick.volume:,}")
        depth = None if tick.detail is None else tick.detail.depth
        if depth is not None and depth.buy and depth.sell:
            parts.append(f"bid {depth.buy[0].price:g}, ask {depth.sell[0].price:g}")
        return "  ".join(parts)

    def _judge(self, took_s: float, market: MarketStatus, failure: FeedError | None) -> Finding:
        name = self._source.feed.name
        if isinstance(failure, FeedRejected):
            return Finding(False, f"{name} refused: {failure}; renew the credentials")
        if not self._ticks and self._ready_ms is None:
            if failure is not None:
                return Finding(False, f"{name} could not be used: {failure}")
            missing = "answer the login" if self._has_login else "let itself be connected to"
            return Finding(False, f"{name} did not {missing} in {took_s:.1f} s")
        remarks = list(self._remarks(market, failure))
        is_well = failure is None and not self._metrics.feed_malformed
        if not self._ticks:
            text = f"{name} accepted the credentials, but {'; '.join(remarks)}"
            return Finding(is_well and not market.is_open, text)
        verdict = "works" if is_well else "does not work as it should"
        text = (
            f"{name} {verdict}: {self._ticks:,} ticks of {len(self._last)} of "
            f"{len(self._instruments)} instruments in {took_s:.1f} s, the first "
            f"{self._first_after_s():.1f} s after the login"
        )
        return Finding(is_well, "; ".join([text, *remarks]))

    def _remarks(self, market: MarketStatus, failure: FeedError | None) -> Iterator[str]:
        if not self._ticks and market.is_open:
            yield "nothing was sent though the market is open"
        elif not self._ticks:
            yield "nothing was sent, which is no wonder: the market is closed"
        if failure is not None:
            yield f"it broke off: {failure}"
        missing = [item.label for key, item in self._instruments.items() if key not in self._last]
        if missing and self._ticks:
            more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
            yield f"nothing came of {', '.join(missing[:MAX_NAMED])}{more}"
        if self._metrics.feed_malformed:
            page = f"docs/feeds/{self._source.feed.name}.md"
            yield f"{self._metrics.feed_malformed:,} messages made no sense, see {page}"
        skew_s = (self._skew_ms or 0) / 1000
        if market.is_open and abs(skew_s) * 1000 > SKEW_MS:
            side = "behind" if skew_s > 0 else "ahead of"
            yield f"exchange time is {abs(skew_s):.0f} s {side} this clock"

    def _first_after_s(self) -> float:
        """Return how long after the login the first tick came."""
        first_ms = self._first_ms or self._began_ms
        return max(0, first_ms - (self._ready_ms or self._began_ms)) / 1000
