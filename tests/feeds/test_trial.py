import asyncio
from pathlib import Path

import msgspec
import pytest

from odin.errors import FeedRejected, FeedUnavailable
from odin.feeds import sources
from odin.feeds.base import Emit, Report
from odin.feeds.capture import read_records
from odin.feeds.trial import Finding, Trial
from odin.market.instruments import InstrumentRegistry
from odin.market.sessions import MarketClock
from odin.metrics import Metrics
from odin.model import Depth, Detail, Instrument, InstrumentKey, Level, Tick
from odin.reference import read_calendar
from odin.settings import Settings
from tests.feeds.fake_venue import SBIN, TCS, FakeVenueFeed, Script, install
from tests.support.server import CLOSED_MS, OPEN_MS

STOCKS = (Instrument(SBIN, "SBIN"), Instrument(TCS, "TCS"))
CLOCK = MarketClock(read_calendar("NSE"))


class Scene:
    """A trial of a venue that follows a script, and what it showed."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        script: Script,
        *,
        at_ms: int = OPEN_MS,
        stocks: tuple[Instrument, ...] = STOCKS,
        lines: int = 50,
        folder: Path | None = None,
    ) -> None:
        install(monkeypatch, script)
        self.now_ms = at_ms
        self.lines: list[str] = []
        self.metrics = Metrics()
        feed = {"kind": "kite", "capture_dir": "" if folder is None else str(folder)}
        settings = msgspec.convert({"feed": feed}, Settings)
        self.source = sources.build(settings, "kite", InstrumentRegistry(), self.metrics)
        self.trial = Trial(
            self.source,
            stocks,
            self.metrics,
            now_ms=lambda: self.now_ms,
            show=self.lines.append,
            lines=lines,
        )

    def tick(self, key: InstrumentKey = SBIN, *, age_ms: int = 0, ltp: float = 800.0) -> Tick:
        return Tick(key, self.now_ms - age_ms, ltp)

    async def run(self, seconds: float = 0.02) -> Finding:
        return await asyncio.wait_for(self.trial.run(seconds, CLOCK.status(self.now_ms)), 5)


async def test_a_feed_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {}

    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        wanted.update(feed.wanted)
        scene.now_ms += 500
        report("login")
        scene.now_ms += 1000
        report("ready")
        report("heard")
        scene.now_ms += 250
        depth = Depth((Level(799.95, 10, 1),), (Level(800.05, 20, 2),))
        emit(Tick(SBIN, scene.now_ms, 800.0, 1_234_567, detail=Detail(depth=depth)))
        emit(Tick(TCS, scene.now_ms, 3000.5))
        scene.now_ms += 2000
        await asyncio.Event().wait()

    scene = Scene(monkeypatch, script)
    assert await scene.run() == Finding(
        True, "kite works: 2 ticks of 2 of 2 instruments in 3.8 s, the first 0.2 s after the login"
    )
    assert wanted == {SBIN: "full", TCS: "full"}
    assert scene.lines == [
        "connected after 0.5 s, logging in",
        "accepted after 1.5 s, 2 asked for",
        "2025-09-04 13:09:51  SBIN (NSE)  800  volume 1,234,567  bid 799.95, ask 800.05",
        "2025-09-04 13:09:51  TCS (NSE)  3000.5",
    ]


async def test_ticks_beyond_the_limit_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        for _ in range(2000):
            emit(scene.tick())

    for lines, shown in ((3, 3 + 2), (0, 1)):
        scene = Scene(monkeypatch, script, lines=lines, stocks=STOCKS[:1])
        assert "2,000 ticks of 1 of 1 instruments" in (await scene.run()).verdict
        assert len(scene.lines) == shown


async def test_data_before_the_venue_says_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        emit(scene.tick())
        scene.now_ms += 1000
        report("ready")

    scene = Scene(monkeypatch, script, stocks=STOCKS[:1])
    assert "the first 0.0 s after the login" in (await scene.run()).verdict


async def test_refused_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("login")
        raise FeedRejected("HTTP 403")

    scene = Scene(monkeypatch, script)
    expected = Finding(False, "kite refused: HTTP 403; renew the credentials")
    assert await scene.run() == expected


async def test_a_venue_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        raise FeedUnavailable("ws.kite.trade could not be reached: no route to host")

    finding = await Scene(monkeypatch, script).run()
    assert not finding.is_well
    assert finding.verdict.startswith("kite could not be used: ws.kite.trade could not be reached")


@pytest.mark.parametrize(
    ("is_connected", "text"),
    [
        (True, "kite did not answer the login in 7.0 s"),
        (False, "kite did not let itself be connected to in 7.0 s"),
    ],
)
async def test_a_venue_that_keeps_us_waiting_has_accepted_nothing(
    monkeypatch: pytest.MonkeyPatch, is_connected: bool, text: str
) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        if is_connected:
            report("login")
        scene.now_ms += 7000
        await asyncio.Event().wait()

    scene = Scene(monkeypatch, script, at_ms=CLOSED_MS)
    assert await scene.run() == Finding(False, text)


@pytest.mark.parametrize(
    ("at_ms", "is_well", "text"),
    [
        (OPEN_MS, False, "nothing was sent though the market is open"),
        (CLOSED_MS, True, "nothing was sent, which is no wonder: the market is closed"),
    ],
)
async def test_silence_means_something_in_an_open_market_only(
    monkeypatch: pytest.MonkeyPatch, at_ms: int, is_well: bool, text: str
) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        await asyncio.Event().wait()

    finding = await Scene(monkeypatch, script, at_ms=at_ms).run()
    assert finding == Finding(is_well, f"kite accepted the credentials, but {text}")


@pytest.mark.parametrize("at_ms", [OPEN_MS, CLOSED_MS])
async def test_one_that_breaks_off_before_it_sent_anything(
    monkeypatch: pytest.MonkeyPatch, at_ms: int
) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        raise FeedUnavailable("the connection was closed with 1006")

    finding = await Scene(monkeypatch, script, at_ms=at_ms).run()
    assert not finding.is_well
    assert finding.verdict.endswith("; it broke off: the connection was closed with 1006")


@pytest.mark.parametrize("error", [FeedUnavailable("it broke"), TimeoutError()])
async def test_one_that_breaks_off_does_not_work(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        emit(scene.tick())
        scene.now_ms += 3000
        raise error

    scene = Scene(monkeypatch, script, stocks=STOCKS[:1])
    finding = await scene.run(seconds=60)
    text = str(error) or "it took too long to answer"
    assert finding == Finding(
        False,
        "kite does not work as it should: 1 ticks of 1 of 1 instruments in 3.0 s, the first 0.0 s "
        f"after the login; it broke off: {text}",
    )


@pytest.mark.parametrize("at_ms", [OPEN_MS, CLOSED_MS])
@pytest.mark.parametrize("has_ticks", [True, False])
async def test_what_makes_no_sense_is_told(
    monkeypatch: pytest.MonkeyPatch, at_ms: int, has_ticks: bool
) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        feed.metrics.feed_malformed += 1234
        if has_ticks:
            emit(scene.tick())

    scene = Scene(monkeypatch, script, at_ms=at_ms)
    finding = await scene.run()
    assert not finding.is_well
    assert "1,234 messages made no sense, see docs/feeds/kite.md" in finding.verdict
    assert "works" not in finding.verdict


async def test_stocks_of_which_nothing_comes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        emit(scene.tick())

    scene = Scene(monkeypatch, script)
    finding = await scene.run()
    assert finding.is_well
    assert finding.verdict.endswith("; nothing came of TCS (NSE)")
    many = tuple(Instrument(InstrumentKey("NSE", "CM", n), f"S{n}") for n in range(1, 1013))
    scene = Scene(monkeypatch, script, stocks=(STOCKS[0], *many))
    assert (await scene.run()).verdict.endswith("S9 (NSE), S10 (NSE) and 1,002 more")


@pytest.mark.parametrize(
    ("ages_ms", "at_ms", "remark"),
    [
        ([5000], OPEN_MS, ""),
        ([6400], OPEN_MS, "exchange time is 6 s behind this clock"),
        ([-6400], OPEN_MS, "exchange time is 6 s ahead of this clock"),
        ([3_600_000, 200, 90_000], OPEN_MS, ""),
        ([3_600_000], CLOSED_MS, ""),
    ],
)
async def test_a_clock_that_differs_is_told_and_a_quiet_stock_is_no_reason(
    monkeypatch: pytest.MonkeyPatch, ages_ms: list[int], at_ms: int, remark: str
) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        for age_ms in ages_ms:
            emit(scene.tick(age_ms=age_ms))

    scene = Scene(monkeypatch, script, at_ms=at_ms, stocks=STOCKS[:1])
    finding = await scene.run()
    assert finding.is_well
    _, _, remarks = finding.verdict.partition("after the login")
    assert remarks == (f"; {remark}" if remark else "")


async def test_what_is_sent_unasked_is_shown_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        emit(scene.tick(InstrumentKey("MCX", "CO", 7)))

    scene = Scene(monkeypatch, script)
    await scene.run()
    assert "MCX:CO:7" in scene.lines[-1]


@pytest.mark.parametrize("error", [None, FeedRejected("no"), RuntimeError("a bug")])
async def test_the_capture_is_written_however_it_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception | None
) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        assert scene.source.capture is not None
        scene.source.capture.begin(0, OPEN_MS * 1_000_000)
        if error is not None:
            raise error

    scene = Scene(monkeypatch, script, folder=tmp_path)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="a bug"):
            await scene.run()
    else:
        await scene.run()
    [path] = tmp_path.iterdir()
    assert len(list(read_records(path))) == 1
