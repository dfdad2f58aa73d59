"""The feeds that the settings ask for, built.

The one list of venues: each is a folder beside this file, a section of the settings, and an entry
in VENUES. Modules of venues are imported when they are asked for, so that a server without them
starts no later.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, get_args

from odin.clock import NS_PER_MS, Clock, SessionClock, WallClock, ist_date
from odin.errors import ConfigError, ReferenceDataError, reflect
from odin.feeds.base import Decoder, Feed
from odin.feeds.capture import Capture
from odin.feeds.captured import CapturedRecording, holds_captures
from odin.feeds.credentials import CredentialSource
from odin.feeds.router import Routes
from odin.feeds.socket import Connector, check_url
from odin.market.instruments import InstrumentRegistry
from odin.market.sessions import Calendar
from odin.metrics import Metrics
from odin.model import InstrumentKey, Segment
from odin.settings import Settings

if TYPE_CHECKING:
    from odin.feeds.recordings import Recording

MB = 1024 * 1024

log = logging.getLogger(__name__)

AnyRecording: TypeAlias = "Recording | CapturedRecording"


class Source(NamedTuple):
    """A feed, and what it was built with."""

    feed: Feed
    credentials: CredentialSource | None = None
    capture: Capture | None = None


class Venue(NamedTuple):
    """What it takes to build the feed of one venue."""

    feed: Callable[..., Feed]
    """Called with its settings, credentials, indices, connector and metrics."""
    decoder: Callable[..., Decoder]
    """Called with its settings and indices; raises ValueError for settings it cannot use."""


def _odin() -> Venue:
    from odin.feeds.odinfeed.feed import OdinFeed
    from odin.feeds.odinfeed.wire import OdinDecoder

    return Venue(OdinFeed, OdinDecoder)


def _kite() -> Venue:
    from odin.feeds.kite.feed import KiteFeed
    from odin.feeds.kite.wire import KiteDecoder

    return Venue(KiteFeed, KiteDecoder)


VENUES: Mapping[str, Callable[[], Venue]] = {"odin": _odin, "kite": _kite}
"""By the name of the feed, which is that of its section in the settings."""


def names(settings: Settings) -> tuple[str, ...]:
    """Return every feed that the settings use, the standby last."""
    used = routes(settings).names
    standby = settings.feed.standby
    return used if not standby or standby in used else (*used, standby)


def routes(settings: Settings) -> Routes:
    """Return which feed carries what. The settings must have been checked."""
    pairs = (text.partition("=") for text in settings.feed.routes)
    return Routes(settings.feed.kind, {name.strip(): feed.strip() for name, _, feed in pairs})


def build_all(
    settings: Settings,
    registry: InstrumentRegistry,
    metrics: Metrics,
    simulator: Callable[[], Feed],
) -> list[Source]:
    """Return every feed that the settings use."""
    found = []
    for name in names(settings):
        if name in VENUES:
            found.append(build(settings, name, registry, metrics))
        elif name == "simulator":
            found.append(Source(simulator()))
    return found


def build(settings: Settings, name: str, registry: InstrumentRegistry, metrics: Metrics) -> Source:
    """Return the feed of one venue."""
    section = getattr(settings, name)
    capture = None
    if settings.feed.capture_dir:
        folder = Path(settings.feed.capture_dir)
        max_bytes = settings.feed.capture_max_mb * MB
        capture = Capture(folder, name, metrics, max_bytes=max_bytes)
    credentials = CredentialSource(section.credentials)
    feed = VENUES[name]().feed(
        section,
        credentials=credentials,
        indices=_known_indices(name, section.indices, registry),
        connector=Connector(metrics, capture),
        metrics=metrics,
    )
    return Source(feed, credentials, capture)


def decoder(settings: Settings, name: str, registry: InstrumentRegistry) -> Decoder:
    """Return a new decoder of one venue. Raises KeyError where there is no such venue."""
    venue = VENUES[name]()
    section = getattr(settings, name)
    return venue.decoder(section, _indices(section.indices, registry))


def read_recording(
    settings: Settings, paths: Sequence[Path], symbol: str | None, registry: InstrumentRegistry
) -> AnyRecording:
    """Return what `odin replay` plays: captures, or bars and ticks of any other form.

    symbol: what a file is of whose lines and name do not say it. Raises ReferenceDataError.
    """
    captures = [path for path in paths if holds_captures(path)]
    if not captures:
        from odin.feeds.recordings import Recording

        return Recording.load(
            paths, resolve=lambda name: registry.resolve(name).instrument, symbol=symbol
        )
    if len(captures) < len(paths):
        raise ReferenceDataError("captures and other recordings cannot be replayed together")
    return CapturedRecording.load(paths, lambda feed: decoder(settings, feed, registry))


def market_clock(settings: Settings, calendar: Calendar) -> Clock:
    """Return the clock that the feeds run by: the wall's, or that of a simulated market."""
    wall = WallClock()
    if settings.simulator.clock == "wall" or settings.feed.kind != "simulator":
        return wall
    day = calendar.day(calendar.latest_trading_day(ist_date(wall.now_ms())))

    def next_session(at_ns: int) -> tuple[int, int]:
        opens_ms, closes_ms = calendar.next_session(at_ns // NS_PER_MS)
        return opens_ms * NS_PER_MS, closes_ms * NS_PER_MS

    return SessionClock(day.windows[0][0] * NS_PER_MS, next_session)


def check(settings: Settings) -> None:
    """Raise ConfigError with all that would keep the feeds from being built."""
    problems = list(_route_problems(settings))
    if not problems:
        for name in names(settings):
            if name in VENUES:
                problems += _venue_problems(settings, name)
    if problems:
        raise ConfigError(problems)


def _route_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    feed = settings.feed
    seen = set()
    for text in feed.routes:
        name, _, target = (part.strip() for part in text.partition("="))
        exchange, colon, segment = name.partition(":")
        is_name = exchange.isalpha() and exchange.isupper()
        if not is_name or (colon and segment not in get_args(Segment)) or target not in VENUES:
            known = " or ".join(VENUES)
            problem = f'{reflect(text)!r} must be like "MCX=kite" or "NSE:FO=kite", with {known}'
            yield "feed.routes", problem
        elif name in seen:
            yield "feed.routes", f"{reflect(name)!r} is routed twice"
        seen.add(name)
    if feed.standby and feed.kind not in VENUES:
        yield "feed.standby", f"cannot stand in for feed.kind = {reflect(feed.kind)}"
    if feed.standby and feed.standby == feed.kind:
        yield "feed.standby", "must be another feed than feed.kind"


def _venue_problems(settings: Settings, name: str) -> Iterator[tuple[str, str]]:
    section = getattr(settings, name)
    if not section.url:
        yield f"{name}.url", "must be set: the feed is used"
    else:
        problem = check_url(section.url, allow_plaintext=settings.feed.allow_plaintext)
        if problem:
            yield f"{name}.url", problem  # not the address: it may hold a secret by mistake
    try:
        CredentialSource(section.credentials)
    except ValueError as error:
        yield f"{name}.credentials", str(error)
    try:
        _indices(section.indices, InstrumentRegistry())
    except ValueError as error:
        yield f"{name}.indices", str(error)
        return
    try:
        VENUES[name]().decoder(section, {})
    except ValueError as error:
        yield name, str(error)


def _known_indices(
    name: str, pairs: tuple[str, ...], registry: InstrumentRegistry
) -> dict[str, InstrumentKey]:
    """Return `_indices`, and tell the operator of those that are left out."""
    found = _indices(pairs, registry)
    for token, _, index in (pair.partition("=") for pair in pairs):
        if token.strip() not in found:
            log.warning(
                "feed %s goes without %s of %s.indices: import a master that has it and restart",
                name,
                reflect(index.strip()),
                name,
            )
    return found


def _indices(pairs: tuple[str, ...], registry: InstrumentRegistry) -> dict[str, InstrumentKey]:
    """Return the registry's key of each index by the venue's own token; those that the registry
    does not know are left out. Raises ValueError for a pair of another form."""
    found = {}
    for text in pairs:
        token, equals, name = (part.strip() for part in text.partition("="))
        if not equals or not token or ":" not in name:
            raise ValueError(f'{reflect(text)!r} must be like "256265=NSE:NIFTY 50"')
        instrument = registry.resolve(name).instrument
        if instrument is not None:
            found[token] = instrument.key
    return found
