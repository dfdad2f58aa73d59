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
from msgspec.structs import asdict, replace

from odin.hub.hub import HIGH_WATER_BYTES, Hub
from odin.hub.outbox import Subscriber
from odin.metrics import Metrics
from odin.model import InstrumentKey, Quote
from odin.protocols.enhanced.encodings import ENCODINGS
from odin.protocols.enhanced.publisher import QuotePublisher
from odin.topics import Encoding, QuoteTopic
from tests.protocols.enhanced.test_encodings import KEY, RELIANCE, SENT_MS
from tests.protocols.test_frames import read_frame

OTHER = InstrumentKey("NSE", "CM", 3045)


class Reader:
    """A socket of the hub that holds what a client would hold."""

    def __init__(self, hub: Hub, publisher: QuotePublisher, encoding: Encoding) -> None:
        self.hub = hub
        self.publisher = publisher
        self.encoding = encoding
        self.subscriber: Subscriber = hub.attach(self)
        self.held_bytes = 0
        self.held: dict[str, Any] = {}
        self.kinds: list[str] = []

    def subscribe(self, *keys: InstrumentKey) -> None:
        topics = [QuoteTopic(key, self.encoding) for key in keys]
        self.hub.subscribe(self.subscriber, topics)
        self.publisher.begin(topics)

    def unsubscribe(self, *keys: InstrumentKey) -> None:
        self.hub.unsubscribe(self.subscriber, [QuoteTopic(key, self.encoding) for key in keys])

    def write(self, data: bytes) -> int:
        while data:
            opcode, payload, data = read_frame(data)
            if self.encoding == "binary":
                self.kinds.append("binary")
                assert len(payload) == 120
                continue
            message = orjson.loads(payload) if opcode == 1 else msgspec.msgpack.decode(payload)
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
        self.publisher = QuotePublisher(self.hub, self.metrics)
        self.hub.on_wanted = self.publisher.want
        self.hub.on_unwanted = self.publisher.unwant

    def reader(self, encoding: Encoding, *keys: InstrumentKey) -> Reader:
        reader = Reader(self.hub, self.publisher, encoding)
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
            assert reader.held == {"2885": asdict(quote)}


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
    assert first.held == second.held == {"2885": asdict(quote)}


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
    assert slow.held == quick.held == {"2885": asdict(quote)}
    assert quick.kinds == ["whole", *["delta"] * 4]
    assert slow.kinds == ["whole", "delta", "whole", "delta"]


async def test_a_renamed_stock_is_told_whole(market: Market) -> None:
    reader = market.reader("json-delta", KEY)
    market.publish(1.0)
    for symbol in ("NEW", "NEW", "RELIANCE"):
        quote = replace(RELIANCE, symbol=symbol, ltp=2.0)
        market.publisher.publish(KEY, quote, SENT_MS)
    market.hub.flush_now()
    assert reader.kinds == ["whole", "whole", "delta", "whole"]
    assert reader.held == {"2885": asdict(quote)}


class PublisherMachine(RuleBasedStateMachine):
    """Any interleaving of readers that come, go, fall behind and drain: what a reader of an
    encoding that tells whole quotes or deltas holds is what was last published to it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.market = Market()
        self.readers: list[tuple[Reader, dict[InstrumentKey, Quote]]] = []

    @rule(encoding=st.sampled_from([name for name in ENCODINGS if name != "binary"]))
    def come(self, encoding: Encoding) -> None:
        self.readers.append((self.market.reader(encoding), {}))

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
                if QuoteTopic(key, reader.encoding) in reader.subscriber.topics:
                    owed[key] = quote

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
            assert reader.held == {str(key.token): asdict(quote) for key, quote in owed.items()}

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
