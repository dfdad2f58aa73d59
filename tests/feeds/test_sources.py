from pathlib import Path
from typing import Any

import msgspec
import pytest

from odin import reference
from odin.errors import ConfigError, ReferenceDataError
from odin.feeds import sources
from odin.feeds.capture import Capture
from odin.feeds.captured import CapturedRecording
from odin.feeds.recordings import Recording
from odin.feeds.router import Routes
from odin.feeds.simulator import Simulator
from odin.market.instruments import InstrumentRegistry
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey
from odin.settings import Settings
from odin.store.sqlite import SqliteStore
from tests.feeds.fake_venue import SBIN, FakeDecoder, FakeVenueFeed, install

NIFTY = Instrument(InstrumentKey("NSE", "INDEX", 26000), "NIFTY 50", kind="index")
REGISTRY = InstrumentRegistry([NIFTY, Instrument(SBIN, "SBIN", series="EQ")])
HERE = "ws://127.0.0.1:9"


def settings(**sections: dict[str, Any]) -> Settings:
    return msgspec.convert(sections, Settings)


def problems(**sections: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        sources.check(settings(**sections))
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


# ---------------------------------------------------------------------- checking

ODIN = {"url": "wss://broker.example:4509"}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"feed": {"kind": "none"}},
        {"feed": {"kind": "kite"}},
        {"feed": {"kind": "odin"}, "odin": ODIN},
        {"feed": {"kind": "odin", "standby": "kite"}, "odin": ODIN},
        {"feed": {"kind": "kite", "standby": "odin"}, "odin": {"url": "wss://broker:4510"}},
        {"feed": {"kind": "none", "routes": ["MCX=kite"]}},
        {"feed": {"kind": "simulator", "routes": ["NSE:FO=kite", " NSE = kite "]}},
        {"feed": {"kind": "odin"}, "odin": {"url": HERE}},
        {"feed": {"kind": "odin", "allow_plaintext": True}, "odin": {"url": "ws://10.0.0.1"}},
        {"feed": {"kind": "kite"}, "kite": {"credentials": "command:print-token --kite"}},
        {"feed": {"kind": "kite"}, "kite": {"indices": []}},
        {"feed": {"kind": "kite"}, "kite": {"indices": ["1=NSE:NO SUCH INDEX"]}},
        {"feed": {"kind": "simulator"}, "odin": {"url": "nonsense", "indices": ["nonsense"]}},
    ],
)
@pytest.mark.usefixtures("fake")
def test_settings_that_can_be_used(sections: dict[str, Any]) -> None:
    assert problems(**sections) == []


FORM = 'must be like "MCX=kite" or "NSE:FO=kite", with odin or kite'


@pytest.mark.parametrize(
    ("sections", "path", "problem"),
    [
        ({"feed": {"routes": ["MCX"]}}, "feed.routes", f"'MCX' {FORM}"),
        ({"feed": {"routes": ["MCX=upstox"]}}, "feed.routes", f"'MCX=upstox' {FORM}"),
        ({"feed": {"routes": ["MCX=simulator"]}}, "feed.routes", f"'MCX=simulator' {FORM}"),
        ({"feed": {"routes": ["mcx=kite"]}}, "feed.routes", f"'mcx=kite' {FORM}"),
        ({"feed": {"routes": ["=kite"]}}, "feed.routes", f"'=kite' {FORM}"),
        ({"feed": {"routes": ["NSE:=kite"]}}, "feed.routes", f"'NSE:=kite' {FORM}"),
        ({"feed": {"routes": ["NSE:XX=kite"]}}, "feed.routes", f"'NSE:XX=kite' {FORM}"),
        ({"feed": {"routes": ["NSE:FO:CM=kite"]}}, "feed.routes", f"'NSE:FO:CM=kite' {FORM}"),
        (
            {"feed": {"routes": ["MCX=kite", "MCX =odin"]}},
            "feed.routes",
            "'MCX' is routed twice",
        ),
        (
            {"feed": {"standby": "kite"}},
            "feed.standby",
            "cannot stand in for feed.kind = simulator",
        ),
        (
            {"feed": {"kind": "kite", "standby": "kite"}},
            "feed.standby",
            "must be another feed than feed.kind",
        ),
        ({"feed": {"kind": "odin"}}, "odin.url", "must be set: the feed is used"),
        (
            {"feed": {"kind": "kite", "routes": ["MCX=odin"]}},
            "odin.url",
            "must be set: the feed is used",
        ),
        (
            {"feed": {"kind": "kite", "standby": "odin"}},
            "odin.url",
            "must be set: the feed is used",
        ),
        (
            {"feed": {"kind": "kite"}, "kite": {"url": "https://kite.trade"}},
            "kite.url",
            "must begin with wss:// (or ws:// on this machine)",
        ),
        (
            {"feed": {"kind": "kite"}, "kite": {"url": "ws://kite.trade"}},
            "kite.url",
            "must begin with wss:// (or set feed.allow_plaintext): it leads",
        ),
        (
            {"feed": {"kind": "kite"}, "kite": {"credentials": "plain text"}},
            "kite.credentials",
            "credentials must be env:PREFIX, file:PATH or command:PROGRAM",
        ),
        (
            {"feed": {"kind": "kite"}, "kite": {"indices": ["256265"]}},
            "kite.indices",
            "'256265' must be like \"256265=NSE:NIFTY 50\"",
        ),
        (
            {"feed": {"kind": "kite"}, "kite": {"indices": ["256265=NIFTY 50"]}},
            "kite.indices",
            "'256265=NIFTY 50' must be like \"256265=NSE:NIFTY 50\"",
        ),
        (
            {"feed": {"kind": "kite"}, "kite": {"indices": ["x=NSE:NIFTY 50"]}},
            "kite",
            "an index must have a number, was x=NSE:NIFTY 50",
        ),
    ],
)
@pytest.mark.usefixtures("fake")
def test_settings_that_cannot(sections: dict[str, Any], path: str, problem: str) -> None:
    [(found_path, text)] = problems(**sections)
    assert found_path == path
    assert text.startswith(problem)
    assert not text.endswith(".")


@pytest.mark.usefixtures("fake")
def test_every_problem_is_told_at_once_and_no_secret() -> None:
    kite = {"url": "wss://me:secret@kite.trade", "credentials": "api_key=SECRET", "indices": ["?"]}
    found = problems(feed={"kind": "odin", "standby": "kite"}, kite=kite)
    assert [path for path, _ in found] == [
        "odin.url",
        "kite.url",
        "kite.credentials",
        "kite.indices",
    ]
    found = problems(feed={"kind": "simulator", "standby": "odin", "routes": ["x=y", "\x1b[2J"]})
    assert [path for path, _ in found] == ["feed.routes", "feed.routes", "feed.standby"]
    assert "\x1b" not in str(found)


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"feed": {"kind": "kite"}}, ""),
        ({"feed": {"kind": "odin"}, "odin": ODIN}, ""),
        ({"feed": {"kind": "kite"}, "kite": {"indices": ["x=NSE:NIFTY 50"]}}, "kite"),
        ({"feed": {"kind": "odin"}, "odin": {**ODIN, "segments": ["1=NSE"]}}, "odin"),
        ({"feed": {"kind": "odin"}, "odin": {**ODIN, "indices": ["26000=NSE:NIFTY 50"]}}, "odin"),
    ],
)
def test_the_real_venues_check_their_own_settings(sections: dict[str, Any], path: str) -> None:
    assert [found for found, _ in problems(**sections)] == ([path] if path else [])


# ---------------------------------------------------------------------- building


def test_the_feeds_in_use_are_each_named_once_and_the_standby_last() -> None:
    feed = {"kind": "odin", "routes": ["MCX=kite", "NSE=odin"]}
    assert sources.names(settings(feed=feed)) == ("odin", "kite")
    alone = {"kind": "odin"}
    assert sources.names(settings(feed={**alone, "standby": "kite"})) == ("odin", "kite")
    assert sources.names(settings(feed={**feed, "standby": "kite"})) == ("odin", "kite")


def test_routes_are_read_with_spaces_around() -> None:
    routes = sources.routes(settings(feed={"kind": "odin", "routes": [" NSE:FO = kite "]}))
    assert isinstance(routes, Routes)
    assert routes.of(InstrumentKey("NSE", "FO", 1)) == "kite"
    assert routes.of(SBIN) == "odin"


@pytest.mark.usefixtures("fake")
def test_each_feed_is_built_of_its_section(tmp_path: Path) -> None:
    given = settings(
        feed={"kind": "simulator", "routes": ["NSE=kite", "MCX=odin"]},
        kite={"credentials": "env:MINE", "indices": ["256265=NSE:NIFTY 50", "1=NSE:UNKNOWN"]},
    )
    metrics = Metrics()
    simulator = Simulator(seed=1, rate_hz=1, clock=None, is_streaming=lambda: True)  # type: ignore[arg-type]
    first, kite, odin = sources.build_all(given, REGISTRY, metrics, lambda: simulator)
    assert isinstance(kite.feed, FakeVenueFeed)
    assert isinstance(odin.feed, FakeVenueFeed)
    assert [kite.feed.settings, odin.feed.settings] == [given.kite, given.odin]
    assert kite.feed.metrics is metrics
    assert kite.feed.credentials is kite.credentials
    assert repr(kite.credentials) == "CredentialSource(env:…)"
    assert kite.feed.indices == {"256265": NIFTY.key}, "what is not known is left out"
    assert kite.capture is None
    assert (first.feed, first.credentials, first.capture) == (simulator, None, None)


@pytest.mark.usefixtures("fake")
def test_without_feeds_nothing_is_built() -> None:
    def simulator() -> Simulator:
        raise AssertionError("it is not used")

    assert sources.build_all(settings(feed={"kind": "none"}), REGISTRY, Metrics(), simulator) == []


@pytest.mark.usefixtures("fake")
async def test_what_a_feed_receives_is_kept_where_the_settings_say(tmp_path: Path) -> None:
    given = settings(feed={"kind": "kite", "capture_dir": str(tmp_path / "new" / "folder")})
    source = sources.build(given, "kite", REGISTRY, Metrics())
    assert isinstance(source.capture, Capture)
    source.capture.begin(0, 1_756_971_590_000_000_000)
    await source.capture.close()
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


def test_the_real_venues_can_be_built() -> None:
    given = settings(feed={"kind": "kite", "routes": ["MCX=odin"]}, odin=ODIN)
    found = sources.build_all(given, REGISTRY, Metrics(), lambda: pytest.fail("not used"))
    assert [source.feed.name for source in found] == ["kite", "odin"]
    for name in ("kite", "odin"):
        decoder = sources.decoder(given, name, REGISTRY)
        assert list(filter(None, decoder.ticks(b"garbage" * 3, 1))) == []


# ---------------------------------------------------------------------- recordings


async def write_capture(folder: Path, feed: str = "kite") -> Path:
    capture = Capture(folder, feed, Metrics(), max_bytes=10**9)
    capture.begin(0, 1_756_971_590_000_000_000)("3045 800", 1_756_971_590_000_000_000)
    await capture.close()
    [path] = folder.iterdir()
    return path


@pytest.mark.usefixtures("fake")
async def test_captures_are_told_from_other_recordings(tmp_path: Path) -> None:
    capture = await write_capture(tmp_path / "captures")
    csv = tmp_path / "SBIN.csv"
    csv.write_text("time,price\n2025-09-04 09:15:00,800\n")
    for paths in ([capture], [tmp_path / "captures"]):
        recording = sources.read_recording(settings(), paths, None, REGISTRY)
        assert isinstance(recording, CapturedRecording)
        assert [tick.ltp for _, tick in recording.timeline()] == [800.0]
    other = sources.read_recording(settings(), [csv], None, REGISTRY)
    assert isinstance(other, Recording)
    assert [tick.key for _, tick in other.timeline()] == [SBIN]
    with pytest.raises(ReferenceDataError, match="cannot be replayed together"):
        sources.read_recording(settings(), [capture, csv], None, REGISTRY)


@pytest.mark.usefixtures("fake")
async def test_a_capture_whose_settings_are_wrong_is_an_error_in_words(tmp_path: Path) -> None:
    capture = await write_capture(tmp_path)
    given = settings(kite={"indices": ["x=NSE:NIFTY 50"]})
    with pytest.raises(ReferenceDataError, match="settings of kite: an index must have a number"):
        sources.read_recording(given, [capture], None, REGISTRY)


@pytest.mark.usefixtures("fake")
def test_a_decoder_is_new_each_time_and_of_a_known_venue_only() -> None:
    first = sources.decoder(settings(), "kite", REGISTRY)
    assert isinstance(first, FakeDecoder)
    assert sources.decoder(settings(), "kite", REGISTRY) is not first
    with pytest.raises(KeyError):
        sources.decoder(settings(), "simulator", REGISTRY)


def test_an_index_that_no_master_has_named_is_told(caplog: pytest.LogCaptureFixture) -> None:
    chosen = settings(kite={"indices": ["265 = BSE:SENSEX", "256265=NSE:NIFTY 50"]})
    sources.build(chosen, "kite", REGISTRY, Metrics())
    assert [record.getMessage() for record in caplog.records] == [
        "feed kite goes without BSE:SENSEX of kite.indices: import a master that has it and restart"
    ]


async def test_the_default_indices_of_nse_are_known_without_a_master(tmp_path: Path) -> None:
    registry = InstrumentRegistry()
    async with await SqliteStore.open(tmp_path / "odin.db") as store:
        await reference.fill_registry(store, registry)
    for section in (Settings().kite, Settings().odin):
        names = [pair.partition("=")[2] for pair in section.indices]
        unknown = [name for name in names if registry.resolve(name).instrument is None]
        assert [name for name in unknown if name.startswith("NSE:")] == []
