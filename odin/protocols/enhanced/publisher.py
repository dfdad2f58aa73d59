"""From a quote to the sockets: one frame for each encoding and mode that somebody reads.

Invariant: a reader of a delta encoding that applies what it gets to what it had holds the newest
quote. So the first frame after a subscribe is whole, and so is what a late reader gets, whose
earlier deltas were conflated away.
"""

from collections.abc import Callable, Iterable, Sequence

from odin.hub.hub import Hub
from odin.metrics import Metrics
from odin.model import Detail, InstrumentKey, Quote
from odin.protocols.enhanced.encodings import DELTAS, encode_delta, encode_plain, encode_quote
from odin.protocols.enhanced.modes import FullQuote, full_quote, has_lost
from odin.topics import QuoteTopic, Topic


class QuotePublisher:
    """Encodes quotes for the topics that have subscribers, and publishes them on the hub.

    detail: what the full mode adds to the newest quote of an instrument.
    """

    def __init__(
        self, hub: Hub, metrics: Metrics, detail: Callable[[InstrumentKey], Detail | None]
    ) -> None:
        self._hub = hub
        self._metrics = metrics
        self._detail = detail
        self._read: dict[InstrumentKey, tuple[QuoteTopic, ...]] = {}
        self._sent: dict[QuoteTopic, Quote] = {}
        """What the readers of a delta topic hold: its next frame tells the difference."""

    def want(self, topics: Sequence[Topic]) -> None:
        """Publish these from now on: each has its first subscriber."""
        for topic in topics:
            if isinstance(topic, QuoteTopic):
                key = InstrumentKey(*topic.key)
                self._read[key] = (*self._read.get(key, ()), topic)

    def unwant(self, topics: Sequence[Topic]) -> None:
        """Publish these no longer: nobody subscribes them."""
        for topic in topics:
            if isinstance(topic, QuoteTopic):
                key = InstrumentKey(*topic.key)
                left = tuple(other for other in self._read[key] if other != topic)
                if left:
                    self._read[key] = left
                else:
                    del self._read[key]
                self._sent.pop(topic, None)

    def begin(self, topics: Iterable[QuoteTopic]) -> None:
        """Make the next frame of these topics a whole one: somebody joins who holds nothing, or
        something else than the others."""
        for topic in topics:
            self._sent.pop(topic, None)

    def publish(self, key: InstrumentKey, quote: Quote, sent_ms: int) -> None:
        """Send a quote to whoever subscribes it. Called once per tick in market hours.

        sent_ms: market time now, which the message says it was sent at.
        """
        topics = self._read.get(key)
        if topics is None:
            return
        full: FullQuote | None = None
        for topic in topics:
            _, encoding, mode = topic
            if encoding == "json" and mode == "quote":
                self._hub.publish(topic, encode_plain(quote, sent_ms))
                continue
            if mode != "full":
                shown = quote
            else:
                shown = full = full or full_quote(quote, self._detail(key))
            if encoding in DELTAS:
                self._publish_delta(topic, key, shown, sent_ms)
            else:
                self._hub.publish(topic, encode_quote(encoding, key, shown, sent_ms, mode))
        self._metrics.frames_published += len(topics)

    def _publish_delta(
        self, topic: QuoteTopic, key: InstrumentKey, quote: Quote, sent_ms: int
    ) -> None:
        _, encoding, mode = topic
        base = self._sent.get(topic)
        self._sent[topic] = quote
        # Readers hold a renamed stock under its old name: what changed of the new one is no use.
        if (
            base is None
            or base.symbol != quote.symbol
            or (mode == "full" and has_lost(base, quote))
        ):
            self._hub.publish(topic, encode_quote(encoding, key, quote, sent_ms, mode))
            return
        frame = encode_delta(encoding, base, quote, sent_ms, mode)
        if self._hub.has_late(topic):
            whole = encode_quote(encoding, key, quote, sent_ms, mode)
            self._hub.publish(topic, frame, late_frame=whole)
        else:
            self._hub.publish(topic, frame)
