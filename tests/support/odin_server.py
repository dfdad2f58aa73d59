"""A broadcast server that speaks ODIN's protocol over a real socket, and misbehaves when told to.

WebSocket messages are written to the transport directly, so that every method but the waiting ones
is done when it returns. `python -m tests.support.odin_server --port 4509` streams random walks of
whatever is subscribed, to try `odin serve` by hand.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from aiohttp import WSMsgType, web

from odin.errors import RemoteWireError
from odin.feeds.odinfeed.framing import (
    FrameReader,
    encode_frame,
    encode_messages,
    encode_plain_frame,
)
from odin.feeds.odinfeed.numbering import Numbering
from odin.feeds.odinfeed.requests import (
    BestFive,
    Login,
    LtpTouchline,
    Pause,
    Request,
    Scrip,
    Touchline,
    decode_request,
)
from odin.feeds.odinfeed.wire import (
    BEST_FIVE,
    DISCONNECT,
    LOGON,
    LOGON_EXPIRES,
    LOGON_OK,
    LTP,
    TOUCHLINE,
    Record,
    encode_levels,
    encode_message,
    encode_record_message,
    encode_record_time,
    encode_time,
)
from odin.model import Depth, InstrumentKey, Level
from odin.protocols.frames import binary_frame
from odin.settings import OdinFeedSettings
from tests.support.venue import VenueServer

NIFTY = InstrumentKey("NSE", "INDEX", 26000)
INDICES: Mapping[str, InstrumentKey] = {"1_26000": NIFTY}
LOGON_REFUSED = "10001"
FRAME_MESSAGES = 200
"""Messages in one frame at most: the length of a frame has five digits."""
DIVISORS: Mapping[str, int] = {"CD": 10_000}


class Day:
    """The trading day of one instrument, in the integers of the wire."""

    def __init__(self, scrip: Scrip, divisor: int, close: int) -> None:
        self.scrip = scrip
        self.divisor = divisor
        self.close = close
        self.last = self.open = self.high = self.low = 0
        self.volume = 0
        self.at_ms = 0

    def trade(self, price: int, at_ms: int) -> None:
        """Trade one share; a price of 0 is a day without a trade yet."""
        self.last = price
        self.open = self.open or price
        self.high = max(self.high, price)
        self.low = min(self.low or price, price)
        self.volume += price > 0
        self.at_ms = at_ms

    def record(self) -> bytes:
        at_s = encode_record_time(self.at_ms)
        book = (10, self.last, 20, self.last)
        day = (self.open, self.high, self.low, self.close)
        return encode_record_message(
            Record(*self.scrip, at_s, at_s, self.last, *book, *day, self.divisor, self.close, 0)
        )

    def ltp(self) -> bytes:
        fields = (*self._names(), (399, self.divisor), (74, encode_time(self.at_ms)))
        return encode_message(LTP, fields)

    def touchline(self) -> bytes:
        return encode_message(TOUCHLINE, self._touchline())

    def best_five(self) -> bytes:
        def side(way: int) -> tuple[Level, ...]:
            steps = range(1, 6)
            prices = [(self.last + way * 5 * step) / self.divisor for step in steps]
            return tuple(Level(p, 10 * step, step) for p, step in zip(prices, steps, strict=True))

        levels = encode_levels(Depth(side(-1), side(1)), self.divisor)
        return encode_message(BEST_FIVE, (*self._touchline(), *levels))

    def _names(self) -> tuple[tuple[int, object], ...]:
        return ((1, self.scrip.segment), (7, self.scrip.token), (8, self.last))

    def _touchline(self) -> tuple[tuple[int, object], ...]:
        time_text = encode_time(self.at_ms)
        return (
            *self._names(),
            *((73, time_text), (74, time_text), (79, self.volume), (54, "-0.63"), (9, 1)),
            *((2, 10), (3, self.last), (5, 20), (6, self.last), (80, (self.high + self.low) // 2)),
            *((81, 7000), (82, 8000), (76, self.close), (75, self.open)),
            *((77, self.high), (78, self.low), (88, 1234), (399, self.divisor)),
        )


class Connection:
    """One client: what it has subscribed, and its requests in the order they came."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.is_in = False
        self.is_paused = False
        self.lines: dict[Scrip, Touchline] = {}
        self.ltps: set[Scrip] = set()
        self.books: set[Scrip] = set()
        self.requests: list[Request] = []
        self.raw: list[bytes] = []
        """What the requests came in."""
        self.sent_ltp: dict[Scrip, int] = {}

    @property
    def scrips(self) -> set[Scrip]:
        return self.lines.keys() | self.ltps | self.books

    def take(self, request: Request) -> None:
        match request:
            case Touchline(scrips, True):
                self.lines.update(dict.fromkeys(scrips, request))
            case Touchline(scrips):
                for scrip in scrips:
                    self.lines.pop(scrip, None)
            case LtpTouchline(scrips, is_on):
                (self.ltps.update if is_on else self.ltps.difference_update)(scrips)
            case BestFive(scrip, is_on):
                (self.books.add if is_on else self.books.discard)(scrip)
            case Pause(is_paused):
                self.is_paused = is_paused

    def messages(self, day: Day) -> list[bytes]:
        """Return what is due to this client when an instrument has traded."""
        scrip = day.scrip
        found = []
        line = self.lines.get(scrip)
        has_moved = self.sent_ltp.get(scrip) != day.last
        if line is not None and (has_moved or not line.is_ltp_change_only):
            found.append(day.record() if line.is_binary else day.touchline())
        if scrip in self.ltps and has_moved:
            found.append(day.ltp())
        if scrip in self.books:
            found.append(day.best_five())
        self.sent_ltp[scrip] = day.last
        return found


class OdinServer(VenueServer):
    """The broadcast server. `async with` starts and stops it.

    credentials: the user and secret that are let in; None for all.
    is_plain: whether its frames are not compressed.
    """

    def __init__(
        self,
        *,
        settings: OdinFeedSettings | None = None,
        indices: Mapping[str, InstrumentKey] = INDICES,
        credentials: tuple[str, str] | None = None,
        is_plain: bool = False,
    ) -> None:
        super().__init__()
        self.numbering = Numbering((settings or OdinFeedSettings()).segments, indices)
        self.connections: list[Connection] = []
        """Those that are open, oldest first."""
        self.expires_in_days: int | None = None
        """What the next logins are warned of."""
        self.is_mute = False
        """Whether logins get no answer."""
        self.chop_bytes = 0
        """Into pieces of so many bytes what is sent is cut, across frames; 0 for a WebSocket
        message a call."""
        self._credentials = credentials
        self._is_plain = is_plain
        self._days: dict[Scrip, Day] = {}

    # ------------------------------------------------------------------ what clients asked for

    @property
    def wanted(self) -> set[InstrumentKey]:
        """The keys of all subscriptions."""
        scrips = {scrip for client in self.connections for scrip in client.scrips}
        keys = {self.numbering.key(scrip) for scrip in scrips}
        return {key for key in keys if key is not None}

    @property
    def requests(self) -> list[Request]:
        """Those of all open connections."""
        return [request for client in self.connections for request in client.requests]

    # ------------------------------------------------------------------ what it sends

    def tick(self, key: InstrumentKey, ltp: float, exchange_ms: int | None = None) -> int:
        """Trade one share; return how many messages went, to each client as it asked for them.

        ltp 0: no trade has been made yet. exchange_ms: the protocol carries whole seconds.
        """
        return self.send_quotes({key: ltp}, exchange_ms)

    def send_quotes(
        self, prices: Mapping[InstrumentKey, float], exchange_ms: int | None = None
    ) -> int:
        """Trade one share of each, in as few frames as it takes; return how many messages went."""
        at_ms = int(time.time() * 1000) if exchange_ms is None else exchange_ms
        days = [self._trade(key, price, at_ms) for key, price in prices.items()]
        if self._is_silent:
            return 0
        return sum(
            self._send(client, [text for day in days for text in client.messages(day)])
            for client in self.connections
            if not client.is_paused
        )

    def say(self, code: int, *fields: tuple[int, object]) -> None:
        """Send a message of any code to everybody, wanted or not."""
        self.send(encode_message(code, fields))

    def send(self, *messages: bytes) -> None:
        """Send these in one frame to everybody."""
        for client in self.connections:
            self._send(client, messages)

    def send_raw(self, data: bytes) -> None:
        """Send any bytes as a WebSocket message to everybody, or as several where they are
        chopped."""
        for client in self.connections:
            self._write(client, data)

    def burst(self, count: int) -> int:
        """Send so many touchlines of what is subscribed, as fast as they can be made; their prices
        climb by 0.05 from 100. Return how many went: none where nothing is subscribed."""
        sent = 0
        at_ms = int(time.time() * 1000)
        for client in self.connections:
            scrips = sorted(client.scrips)
            while scrips and sent < count:
                texts: list[bytes] = []
                while len(texts) < FRAME_MESSAGES and sent + len(texts) < count:
                    number = sent + len(texts)
                    scrip = scrips[number % len(scrips)]
                    key = self.numbering.key(scrip)
                    assert key is not None
                    day = self._trade(key, 100 + 0.05 * number, at_ms)
                    texts += client.messages(day)[: count - number]
                sent += self._send(client, texts)
        return sent

    # ------------------------------------------------------------------ how it misbehaves

    def refuse_credentials(self, is_refusing: bool = True) -> None:
        """Refuse logins, or no longer."""
        self._is_refusing = is_refusing

    def stay_silent(self, is_silent: bool = True) -> None:
        """Send no ticks, or do so again."""
        self._is_silent = is_silent

    def drop(self) -> None:
        """Break all connections without a word."""
        for client in self.connections:
            client.transport.abort()
        self.connections.clear()
        self._has_changed.set()

    def disconnect(self) -> None:
        """Say that the broadcast is disconnected (1111), and leave the rest to the clients."""
        self.say(DISCONNECT)

    def cut_in_mid_frame(self) -> None:
        """Send half a frame, and end the connection."""
        frame = self._frame([encode_message(TOUCHLINE, ((1, 1), (7, 22), (8, 100)))] * 10)
        for client in self.connections:
            client.transport.write(binary_frame(frame[: len(frame) // 2]))
            client.transport.close()
        self.connections.clear()
        self._has_changed.set()

    def send_garbage(self) -> None:
        """Send frames that mean nothing, of several kinds; a good one after them is understood."""
        for data in (
            b"",
            bytes(range(256)),
            b"\x0500042" + b"\xff" * 42,  # no zlib stream
            b"\x0599999",  # a length without a body
            encode_frame(b"x" * 50),  # no message
            encode_frame(b"\x0200099short"),  # a message that is cut off
            encode_frame(encode_messages([b"63=FT3.0|64=209|65=1|66=|50=short"])),
            encode_frame(encode_messages([encode_message(TOUCHLINE, ((1, "x"), (7, 22)))])),
            encode_frame(encode_messages([encode_message(TOUCHLINE, ((1, 99), (7, 1), (8, 5)))])),
        ):
            self.send_raw(data)

    # ------------------------------------------------------------------

    def _frame(self, messages: Iterable[bytes]) -> bytes:
        body = encode_messages(messages)
        return encode_plain_frame(body) if self._is_plain else encode_frame(body)

    def _send(self, client: Connection, messages: Iterable[bytes]) -> int:
        """Send messages in one WebSocket message of as many frames as it takes."""
        texts = list(messages)
        starts = range(0, len(texts), FRAME_MESSAGES)
        frames = [self._frame(texts[start : start + FRAME_MESSAGES]) for start in starts]
        if frames:
            self._write(client, b"".join(frames))
        return len(texts)

    def _write(self, client: Connection, data: bytes) -> None:
        size = self.chop_bytes or max(1, len(data))
        for start in range(0, max(1, len(data)), size):
            client.transport.write(binary_frame(data[start : start + size]))

    def _trade(self, key: InstrumentKey, price: float, at_ms: int) -> Day:
        scrip = self.numbering.scrip(key)
        assert scrip is not None, f"{key} has no scrip"
        divisor = DIVISORS.get(key.segment, 100)
        day = self._days.get(scrip)
        if day is None:
            day = self._days[scrip] = Day(scrip, divisor, round(price * divisor) or 100 * divisor)
        day.trade(round(price * divisor), at_ms)
        return day

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        client = Connection(request.transport)
        self.connects += 1
        self.connections.append(client)
        self._has_changed.set()
        frames = FrameReader(self._count_nonsense)
        async for message in ws:
            if message.type is not WSMsgType.BINARY:
                self._count_nonsense()
                continue
            client.raw.append(message.data)
            for text in frames.messages(message.data):
                self._take(client, text)
        if client in self.connections:
            self.connections.remove(client)
        self._has_changed.set()
        return ws

    def _count_nonsense(self) -> None:
        self.nonsense += 1

    def _take(self, client: Connection, text: bytes) -> None:
        try:
            request = decode_request(text)
        except RemoteWireError:
            self._count_nonsense()
            return
        client.requests.append(request)
        if isinstance(request, Login):
            self._answer(client, request)
        elif client.is_in:
            client.take(request)
        else:
            self._count_nonsense()
        self._has_changed.set()

    def _answer(self, client: Connection, login: Login) -> None:
        if self.is_mute:
            return
        fields: list[tuple[int, object]] = [(70, LOGON_OK), (1, 1)]
        if self._is_refusing or self._credentials not in (None, (login.user, login.secret)):
            fields = [(70, LOGON_REFUSED), (58, f"no such key: {login.secret}")]
        else:
            client.is_in = True
            if self.expires_in_days is not None:
                fields = [(70, LOGON_EXPIRES), (97, self.expires_in_days)]
        self._send(client, [encode_message(LOGON, fields)])


async def stream(port: int, rate_hz: float) -> None:
    """Stream random walks of what is subscribed, for ever."""
    server = OdinServer()
    await server.start(port)
    try:
        sys.stdout.write(f"odin.url = {server.url!r}\n")
        sys.stdout.flush()
        prices: dict[InstrumentKey, float] = {}
        while True:
            for key in server.wanted:
                last = prices.get(key, 1000.0)
                prices[key] = max(0.05, last + 0.05 * random.randint(-3, 3))
            server.send_quotes({key: prices[key] for key in server.wanted})
            await asyncio.sleep(1 / rate_hz)
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4509)
    parser.add_argument("--rate", type=float, default=1.0, help="ticks a second and instrument")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(stream(options.port, options.rate))


if __name__ == "__main__":
    main()
