"""A ticker that speaks Kite's protocol over a real socket, and misbehaves when told to.

Frames are written to the transport directly, so that every method but the waiting ones is done when
it returns. `python -m tests.support.kite_server --port 9001` streams random walks of whatever is
subscribed, to try `odin serve` by hand.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from aiohttp import WSMsgType, web

from odin.errors import RemoteWireError
from odin.feeds.kite.text import (
    DEFAULT_MODE,
    Request,
    SetMode,
    Subscribe,
    Text,
    Unsubscribe,
    decode_request,
    encode_text,
)
from odin.feeds.kite.wire import (
    DEPTH_LEVELS,
    HEARTBEAT,
    Entry,
    FullPacket,
    IndexFullPacket,
    IndexQuotePacket,
    LtpPacket,
    Packet,
    QuotePacket,
    TokenMap,
    divisor,
    encode_message,
)
from odin.model import InstrumentKey, Mode
from odin.protocols.frames import binary_frame, text_frame
from tests.support.venue import VenueServer

NIFTY = InstrumentKey("NSE", "INDEX", 26000)
INDICES: Mapping[str, InstrumentKey] = {"256265": NIFTY}
INDEX_SEGMENT = 9
CAPACITY = 3000
BURST_PACKETS = 500


class Day:
    """The trading day of one instrument, in the integers of the wire."""

    def __init__(self, token: int, first: int) -> None:
        self.token = token
        self.last = self.open = self.high = self.low = self.close = first
        self.volume = 0
        self.exchange_s = 0

    def trade(self, price: int, quantity: int, exchange_s: int) -> None:
        self.last = price
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.volume += quantity
        self.exchange_s = exchange_s

    def packet(self, mode: Mode) -> Packet:
        """Return what Kite would send in this mode."""
        if mode == "ltp":
            return LtpPacket(self.token, self.last)
        if self.token & 0xFF == INDEX_SEGMENT:
            index = IndexQuotePacket(
                self.token,
                self.last,
                self.high,
                self.low,
                self.open,
                self.close,
                self.last - self.close,
            )
            return index if mode == "quote" else IndexFullPacket(index, self.exchange_s)
        quote = QuotePacket(
            self.token,
            self.last,
            1,
            (self.high + self.low) // 2,
            self.volume,
            7000,
            8000,
            self.open,
            self.high,
            self.low,
            self.close,
        )
        if mode == "quote":
            return quote
        levels = range(1, DEPTH_LEVELS + 1)
        buy = tuple(Entry(10 * level, self.last - 5 * level, level) for level in levels)
        sell = tuple(Entry(20 * level, self.last + 5 * level, level) for level in levels)
        time_s = self.exchange_s
        return FullPacket(quote, time_s, 1234, 2000, 1000, time_s, buy, sell)


class Connection:
    """One client: what it has subscribed, and its requests in the order they came."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.modes: dict[int, Mode] = {}
        self.requests: list[Request] = []

    def take(self, request: Request) -> None:
        self.requests.append(request)
        match request:
            case Subscribe(tokens):
                self.modes.update(dict.fromkeys(tokens, DEFAULT_MODE))
            case Unsubscribe(tokens):
                for token in tokens:
                    self.modes.pop(token, None)
            case SetMode((mode, tokens)):
                self.modes.update({token: mode for token in tokens if token in self.modes})

    def send(self, message: bytes) -> None:
        self.transport.write(binary_frame(message))


class KiteServer(VenueServer):
    """The ticker. `async with` starts and stops it.

    credentials: the api_key and access_token that are let in; None for all.
    """

    def __init__(
        self,
        *,
        indices: Mapping[str, InstrumentKey] = INDICES,
        credentials: tuple[str, str] | None = None,
        heartbeat_s: float = 1.0,
    ) -> None:
        super().__init__()
        self.tokens = TokenMap(indices)
        self.connections: list[Connection] = []
        """Those that are open, oldest first."""
        self.refusals = 0
        self.largest_batch = 0
        """Tokens in the longest request."""
        self.headers: Mapping[str, str] = {}
        """Of the last handshake."""
        self._credentials = credentials
        self._heartbeat_s = heartbeat_s
        self._days: dict[int, Day] = {}

    async def start(self, port: int = 0) -> None:
        await super().start(port)
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        self._beating.cancel()
        with suppress(asyncio.CancelledError):
            await self._beating
        await super().stop()

    # ------------------------------------------------------------------ what clients asked for

    @property
    def subscriptions(self) -> dict[int, Mode]:
        """The mode of every instrument_token that is subscribed on an open connection."""
        return {token: mode for client in self.connections for token, mode in client.modes.items()}

    @property
    def wanted(self) -> set[InstrumentKey]:
        """The keys of all subscriptions."""
        keys = {self.tokens.key(token) for token in self.subscriptions}
        return {key for key in keys if key is not None}

    async def wait_subscribed(self, subscriptions: Mapping[int, Mode]) -> None:
        """Wait until exactly these are subscribed, in these modes."""
        await self.wait_for(lambda: self.subscriptions == subscriptions)

    # ------------------------------------------------------------------ what it sends

    def tick(self, key: InstrumentKey, ltp: float, exchange_ms: int | None = None) -> int:
        """Trade one share; return to how many connections it was sent, each in its own mode."""
        return self.send_quotes({key: ltp}, exchange_ms)

    def send_quotes(
        self, prices: Mapping[InstrumentKey, float], exchange_ms: int | None = None
    ) -> int:
        """Trade one share of each, in one message a connection; return how many packets went."""
        exchange_s = int(time.time()) if exchange_ms is None else exchange_ms // 1000
        days = [self._trade(key, price, exchange_s) for key, price in prices.items()]
        sent = 0
        for client in self.connections:
            modes = client.modes
            packets = [day.packet(modes[day.token]) for day in days if day.token in modes]
            if packets and not self._is_silent:
                client.send(encode_message(packets))
                sent += len(packets)
        return sent

    def send(self, *packets: Packet) -> None:
        """Send these in one message to everybody, wanted or not."""
        self.send_raw(encode_message(packets))

    def send_raw(self, message: bytes) -> None:
        """Send any bytes as a binary message to everybody."""
        for client in self.connections:
            client.send(message)

    def say(self, text: Text | str) -> None:
        """Send a text to everybody, as it is where it is one already."""
        message = text if isinstance(text, str) else encode_text(text)
        for client in self.connections:
            client.transport.write(text_frame(message.encode()))

    def burst(self, count: int) -> int:
        """Send so many packets of what is subscribed, as fast as they can be made; their prices
        climb by 0.05 from 100. Return how many went: none where nothing is subscribed."""
        clients = [client for client in self.connections if client.modes]
        for begin in range(0, count if clients else 0, BURST_PACKETS):
            client = clients[begin // BURST_PACKETS % len(clients)]
            tokens = list(client.modes)
            packets = []
            for number in range(begin, min(begin + BURST_PACKETS, count)):
                token = tokens[number % len(tokens)]
                packets.append(self._day(token, 10_000 + 5 * number).packet(client.modes[token]))
            client.send(encode_message(packets))
        return count if clients else 0

    # ------------------------------------------------------------------ how it misbehaves

    def refuse_credentials(self, is_refusing: bool = True) -> None:
        """Answer handshakes with 403, or no longer."""
        self._is_refusing = is_refusing

    def kill_tokens(self) -> None:
        """Do as Kite does in the early morning: end all connections and refuse their tokens."""
        self.refuse_credentials()
        self.drop()

    def stay_silent(self, is_silent: bool = True) -> None:
        """Send neither ticks nor heartbeats, or do so again."""
        self._is_silent = is_silent

    def drop(self) -> None:
        """Break all connections without a word."""
        for client in self.connections:
            client.transport.abort()
        self.connections.clear()
        self._has_changed.set()

    def cut_in_mid_frame(self) -> None:
        """Send half a message, and end the connection."""
        for client in self.connections:
            message = binary_frame(encode_message([LtpPacket(0x101, 100)] * 10))
            client.transport.write(message[: len(message) // 2])
            client.transport.close()
        self.connections.clear()

    def send_garbage(self) -> None:
        """Send binary and text messages that mean nothing, of several kinds."""
        for message in (
            b"",
            b"\x00\x05",  # five packets that never come
            b"\x00\x01\x00\x2c" + b"\x00" * 10,  # a packet that is cut off
            b"\x00\x01\x00\x07" + b"\xff" * 7,  # a length that is none
            encode_message([LtpPacket(0x1FF, 100)]),  # a segment that is none
            bytes(range(256)),
        ):
            self.send_raw(message)
        self.say("{")
        self.say("\x00\u2028")

    # ------------------------------------------------------------------

    def _trade(self, key: InstrumentKey, price: float, exchange_s: int) -> Day:
        token = self.tokens.instrument_token(key)
        assert token is not None, f"{key} has no instrument_token"
        return self._day(token, round(price * divisor(token)), exchange_s)

    def _day(self, token: int, price: int, exchange_s: int | None = None) -> Day:
        day = self._days.get(token)
        if day is None:
            day = self._days[token] = Day(token, price)
        day.trade(price, 1, int(time.time()) if exchange_s is None else exchange_s)
        return day

    async def _beat(self) -> None:
        while True:
            if not self._is_silent:
                self.send_raw(HEARTBEAT)
            await asyncio.sleep(self._heartbeat_s)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.connects += 1
        given = (request.query.get("api_key"), request.query.get("access_token"))
        if self._is_refusing or self._credentials not in (None, given):
            self.refusals += 1
            self._has_changed.set()
            raise web.HTTPForbidden(text="Incorrect `api_key` or `access_token`.")
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        client = Connection(request.transport)
        self.headers = dict(request.headers)
        self.connections.append(client)
        self._has_changed.set()
        async for message in ws:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self._take(client, message.data)
        if client in self.connections:
            self.connections.remove(client)
        self._has_changed.set()
        return ws

    def _take(self, client: Connection, data: str | bytes) -> None:
        try:
            request = decode_request(data)
            client.take(request)
            tokens = request.mode_and_tokens[1] if isinstance(request, SetMode) else request.tokens
            self.largest_batch = max(self.largest_batch, len(tokens))
        except RemoteWireError:
            self.nonsense += 1
        if len(client.modes) > CAPACITY:
            self.say(Text("error", f"{len(client.modes)} instruments, {CAPACITY} are allowed"))
        self._has_changed.set()


async def stream(port: int, rate_hz: float) -> None:
    """Stream random walks of whatever is subscribed, for ever."""
    server = KiteServer()
    await server.start(port)
    sys.stdout.write(f'[kite]\nurl = "{server.url}"\n')
    sys.stdout.flush()
    prices: dict[InstrumentKey, float] = {}
    try:
        while True:
            for key in server.wanted:
                prices[key] = max(1.0, prices.get(key, 1000.0) + 0.05 * random.randint(-5, 5))
            server.send_quotes({key: prices[key] for key in server.wanted})
            await asyncio.sleep(1 / rate_hz)
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--rate", type=float, default=1.0, help="ticks a second and instrument")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(stream(options.port, options.rate))


if __name__ == "__main__":
    main()
