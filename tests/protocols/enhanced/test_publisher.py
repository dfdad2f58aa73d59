"""From a quote to the frames of every encoding that is read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from odin.hub.hub import HIGH_WATER_BYTES, Hub
from odin.hub.outbox import Subscriber
from odin.metrics import Metrics
from odin.model import MODES, Depth, Detail, InstrumentKey, Level, Mode, Quote
from odin.protocols.enhanced.encodings import ENCODINGS
from odin.protocols.enhanced.modes import full_quote, last_price
from odin.protocols.enhanced.publisher import QuotePublisher
from odin.topics import Encoding, QuoteTopic
from tests.protocols.enhanced.test_encodings import KEY, RELIANCE, SENT_MS
from tests.protocols.test_frames import read_frame

OTHER = InstrumentKey("NSE", "CM", 3045)
BINARY_BYTES = {"ltp": 48, "quote": 120, "full": 160}
DETAIL = Detail(99.5, 700, 800, depth=Depth((Level(99.0, 7, 1),), (Level(99.1, 8, 2),)))


def shown(quote: Quote, mode: Mode, detail: Detail | None = None) -> dict[str, Any]:
    """Return the `data` that a reader of the mode holds after a quote."""
    data = {"ltp": last_price(quote), "quote": quote, "full": full_quote(quote, detail)}[mode]
    held: dict[str, Any] = orjson.loads(msgspec.json.encode(data))
    return held


class Reader:
    """A socket of the hub that holds what a client would hold."""

    def __init__(
        self, hub: Hub, publisher: QuotePublisher, encoding: Encoding, mode: Mode = "quote"
    ) -> None:
        self.hub = hub
        self.publisher = publisher
        self.encoding = encoding
        self.mode = mode
        self.subscriber: Subscriber = hub.attach(self)
        self.held_bytes = 0
        self.held: dict[str, Any] = {}
        self.kinds: list[str] = []
        self.modes: list[str] = []

    def subscribe(self, *keys: InstrumentKey) -> None:
        topics = [QuoteTopic(key, self.encoding, self.mode) for key in keys]
        self.hub.subscribe(self.subscriber, topics)
        self.publisher.begin(topics)

    def unsubscribe(self, *keys: InstrumentKey) -> None:
        topics = [QuoteTopic(key, self.encoding, self.mode) for key in keys]
        self.hub.unsubscribe(self.subscriber, topics)

    def change(self, mode: Mode) -> None:
        """Hold all of it in another mode, as a session does."""
        old = [topic for topic in self.subscriber.topics if isinstance(topic, QuoteTopic)]
        new = [topic._replace(mode=mode) for topic in old]
        self.mode = mode
        self.hub.subscribe(self.subscriber, new)
        self.hub.unsubscribe(self.subscriber, set(old) - set(new))
        self.publisher.begin(new)

    def write(self, data: bytes) -> int:
        while data:
            opcode, payload, data = read_frame(data)
            if self.encoding == "binary":
                self.kinds.append("binary")
                assert len(payload) == BINARY_BYTES[self.mode] + (
                    48 if payload[0] == 3 and payload[121] else 0
                )
                continue
            message = orjson.loads(payload) if opcode == 1 else msgspec.msgpack.decode(payload)
            self.modes.append(message.get("mode", "quote"))
            if message.get("delta"):
                self.kinds.append("delta")
                self.held[message["token"]] = self.held[message["token"]] | message["data"]
            else:
                self.kinds.append("whole")
                self.held[message["token"]] = message["data"]
        return self.held_bytes

    def backlog_bytes(self) -> int:
        return self.held_bytes

    def on_stalled(self) -> None:
        raise AssertionError("nobody stalls here")


class Market:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.hub = Hub(self.metrics)
        self.details: dict[InstrumentKey, Detail] = {}
        self.publisher = QuotePublisher(self.hub, self.metrics, self.details.get)
        self.hub.on_wanted = self.publisher.want
        self.hub.on_unwanted = self.publisher.unwant

    def reader(self, encoding: Encoding, *keys: InstrumentKey, mode: Mode = "quote") -> Reader:
        reader = Reader(self.hub, self.publisher, encoding, mode)
        reader.subscribe(*keys)
        return reader

    def publish(self, ltp: float, key: InstrumentKey = KEY) -> Quote:
        quote = replace(RELIANCE, token=str(key.token), ltp=ltp)
        self.publisher.publish(key, quote, SENT_MS)
        return quote

    def close(self) -> None:
        for subscriber in list(self.hub._subscribers):
            self.hub.detach(subscriber)
        if self.hub._late_timer is not None:
            self.hub._late_timer.cancel()


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    made = Market()
    yield made
    made.close()


async def test_nothing_is_encoded_that_nobody_reads(market: Market) -> None:
    market.publish(1.0)
    assert market.metrics.frames_published == 0
    reader = market.reader("json", KEY)
    market.publish(2.0)
    reader.unsubscribe(KEY)
    market.publish(3.0)
    assert market.metrics.frames_published == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_each_reader_gets_its_own_encoding_and_shares_the_frame(
    market: Market, encoding: Encoding
) -> None:
    readers = {name: market.reader(name, KEY) for name in ENCODINGS}
    twin = market.reader(encoding, KEY)
    quote = market.publish(5.0)
    market.hub.flush_now()
    assert market.metrics.frames_published == len(ENCODINGS)
    for reader in (*readers.values(), twin):
        expected = ["binary"] if reader.encoding == "binary" else ["whole"]
        assert reader.kinds == expected
        if reader.encoding != "binary":
            assert reader.held == {"2885": shown(quote, "quote")}


@pytest.mark.parametrize("encoding", ["json-delta", "msgpack-delta"])
async def test_a_delta_reader_begins_with_a_whole_quote(market: Market, encoding: Encoding) -> None:
    first = market.reader(encoding, KEY)
    for ltp in (1.0, 2.0, 3.0):
        market.publish(ltp)
    second = market.reader(encoding, KEY)
    for ltp in (4.0, 5.0):
        quote = market.publish(ltp)
    market.hub.flush_now()
    assert first.kinds == ["whole", "delta", "delta", "whole", "delta"]
    assert second.kinds == ["whole", "delta"]
    assert first.held == second.held == {"2885": shown(quote, "quote")}


async def test_quotes_that_nobody_read_are_no_base(market: Market) -> None:
    reader = market.reader("json-delta", KEY)
    market.publish(1.0)
    reader.unsubscribe(KEY)
    market.publish(2.0)
    reader.subscribe(KEY)
    market.publish(1.0)
    market.hub.flush_now()
    assert reader.kinds == ["whole", "whole"]


async def test_a_late_delta_reader_gets_the_newest_whole_quote_and_costs_nobody(
    market: Market,
) -> None:
    slow = market.reader("json-delta", KEY)
    quick = market.reader("json-delta", KEY)
    market.publish(1.0)
    market.hub.flush_now()
    slow.held_bytes = HIGH_WATER_BYTES + 1
    for ltp in (2.0, 3.0, 4.0):
        market.publish(ltp)
        market.hub.flush_now()
    slow.held_bytes = 0
    await asyncio.sleep(0.03)
    quote = market.publish(5.0)
    market.hub.flush_now()
    assert slow.held == quick.held == {"2885": shown(quote, "quote")}
    assert quick.kinds == ["whole", *["delta"] * 4]
    assert slow.kinds == ["whole", "delta", "whole", "delta"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_frame_is_encoded_once_for_each_encoding_and_mode(
    market: Market, mode: Mode
) -> None:
    market.details[KEY] = DETAIL
    readers = [market.reader(encoding, KEY, mode=mode) for encoding in ENCODINGS]
    readers += [market.reader(encoding, KEY, mode=mode) for encoding in ENCODINGS]
    others = [market.reader("json", KEY, mode=other) for other in MODES if other != mode]
    quote = market.publish(5.0)
    market.hub.flush_now()
    assert market.metrics.frames_published == len(ENCODINGS) + len(others)
    for reader in readers:
        if reader.encoding != "binary":
            assert reader.modes == [mode]
            assert reader.held == {"2885": shown(quote, mode, DETAIL)}


async def test_the_detail_is_asked_for_only_where_it_is_read(market: Market) -> None:
    asked: list[InstrumentKey] = []
    market.publisher._detail = asked.append  # type: ignore[assignment]
    market.reader("json", KEY)
    market.reader("json", KEY, mode="ltp")
    market.publish(1.0)
    assert asked == []
    full = market.reader("json", KEY, mode="full")
    market.reader("msgpack", KEY, mode="full")
    market.publish(2.0)
    assert asked == [KEY]
    full.unsubscribe(KEY)


async def test_a_full_delta_has_the_depth_whole_where_it_changed(market: Market) -> None:
    market.details[KEY] = DETAIL
    reader = market.reader("json-delta", KEY, mode="full")
    market.publish(1.0)
    market.publish(2.0)
    depth = Depth((Level(99.0, 9, 1),), DETAIL.depth.sell if DETAIL.depth else ())
    market.details[KEY] = replace(DETAIL, depth=depth)
    quote = market.publish(3.0)
    market.hub.flush_now()
    assert reader.kinds == ["whole", "delta", "delta"]
    assert reader.held == {"2885": shown(quote, "full", market.details[KEY])}


async def test_what_is_no_longer_known_is_told_by_a_whole_quote(market: Market) -> None:
    market.details[KEY] = DETAIL
    reader = market.reader("json-delta", KEY, mode="full")
    market.publish(1.0)
    market.details[KEY] = Detail(oi=5)
    market.publish(2.0)
    quote = market.publish(3.0)
    market.hub.flush_now()
    assert reader.kinds == ["whole", "whole", "delta"]
    assert reader.held == {"2885": shown(quote, "full", Detail(oi=5))}


@pytest.mark.parametrize("encoding", ["json-delta", "msgpack-delta"])
async def test_another_mode_begins_with_a_whole_quote(market: Market, encoding: Encoding) -> None:
    reader = market.reader(encoding, KEY)
    for mode in ("quote", "ltp", "full", "quote"):
        reader.change(mode)  # type: ignore[arg-type]
        market.publish(1.0)
        quote = market.publish(2.0)
        market.hub.flush_now()
        assert reader.held == {"2885": shown(quote, reader.mode)}
    assert reader.kinds == ["whole", "delta"] * 4


async def test_a_renamed_stock_is_told_whole(market: Market) -> None:
    reader = market.reader("json-delta", KEY)
    market.publish(1.0)
    for symbol in ("NEW", "NEW", "RELIANCE"):
        quote = replace(RELIANCE, symbol=symbol, ltp=2.0)
        market.publisher.publish(KEY, quote, SENT_MS)
    market.hub.flush_now()
    assert reader.kinds == ["whole", "whole", "delta", "whole"]
    assert reader.held == {"2885": shown(quote, "quote")}


levels = st.lists(st.builds(Level, st.sampled_from([1.0, 2.0]), st.just(1), st.just(1)), max_size=2)
details = st.builds(
    Detail,
    st.none() | st.sampled_from([1.0, 2.0]),
    st.none() | st.integers(0, 2),
    oi=st.none() | st.integers(0, 2),
    depth=st.none() | st.builds(Depth, levels.map(tuple), levels.map(tuple)),
)


class PublisherMachine(RuleBasedStateMachine):
    """Any interleaving of readers that come, go, change their mode, fall behind and drain: what a
    reader of an encoding that tells whole quotes or deltas holds is what was last published to it,
    as its mode shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.market = Market()
        self.readers: list[tuple[Reader, dict[InstrumentKey, dict[str, Any]]]] = []

    @rule(
        encoding=st.sampled_from([name for name in ENCODINGS if name != "binary"]),
        mode=st.sampled_from(MODES),
    )
    def come(self, encoding: Encoding, mode: Mode) -> None:
        self.readers.append((self.market.reader(encoding, mode=mode), {}))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), mode=st.sampled_from(MODES))
    def change(self, data: st.DataObject, mode: Mode) -> None:
        """What it holds in the old mode is replaced by the first quote in the new one."""
        reader, _ = data.draw(st.sampled_from(self.readers))
        reader.change(mode)

    @rule(key=st.sampled_from([KEY, OTHER]), detail=st.none() | details)
    def learn(self, key: InstrumentKey, detail: Detail | None) -> None:
        """The feed tells something, or a new day begins."""
        self.market.details.pop(key, None)
        if detail is not None:
            self.market.details[key] = detail

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), key=st.sampled_from([KEY, OTHER]))
    def subscribe(self, data: st.DataObject, key: InstrumentKey) -> None:
        reader, _ = data.draw(st.sampled_from(self.readers))
        reader.subscribe(key)  # again, for some: that changes nothing for them

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), key=st.sampled_from([KEY, OTHER]))
    def unsubscribe(self, data: st.DataObject, key: InstrumentKey) -> None:
        reader, owed = data.draw(st.sampled_from(self.readers))
        reader.unsubscribe(key)
        owed.pop(key, None)
        reader.held.pop(str(key.token), None)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), is_full=st.booleans())
    def fill(self, data: st.DataObject, is_full: bool) -> None:
        reader, _ = data.draw(st.sampled_from(self.readers))
        reader.held_bytes = HIGH_WATER_BYTES + 1 if is_full else 0

    @rule(ltp=st.sampled_from([1.0, 2.0, 3.0]), key=st.sampled_from([KEY, OTHER]))
    def publish(self, ltp: float, key: InstrumentKey) -> None:
        async def publish() -> None:
            quote = self.market.publish(ltp, key)
            for reader, owed in self.readers:
                if QuoteTopic(key, reader.encoding, reader.mode) in reader.subscriber.topics:
                    owed[key] = shown(quote, reader.mode, self.market.details.get(key))

        self.loop.run_until_complete(publish())

    @rule()
    def settle(self) -> None:
        """Let everybody drain, and compare."""

        async def settle() -> None:
            for reader, _ in self.readers:
                reader.held_bytes = 0
            self.market.hub.flush_now()
            self.market.hub._check_late()

        self.loop.run_until_complete(settle())
        for reader, owed in self.readers:
            assert reader.held == {str(key.token): data for key, data in owed.items()}

    @invariant()
    def only_what_is_read_has_a_base(self) -> None:
        read = {topic for reader, _ in self.readers for topic in reader.subscriber.topics}
        assert set(self.market.publisher._sent) <= read

    def teardown(self) -> None:
        self.market.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        asyncio.set_event_loop(None)


PublisherMachine.TestCase.settings = settings(max_examples=60, deadline=None)
TestPublisher = PublisherMachine.TestCase
