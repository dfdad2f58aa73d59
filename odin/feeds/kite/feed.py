"""The client of Kite's ticker: keeps its subscriptions, and makes ticks of what it sends.

What is wanted is spread over as many connections as it needs and the settings allow; an instrument
stays on its connection. Invariant: what a connection has been told follows what is wanted of it,
and begins with nothing on every connect. One connection that breaks ends them all, so that the
supervisor sees one feed. The protocol is that of `wire` and `text`.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from odin.errors import FeedRejected, RemoteWireError, reflect
from odin.feeds.base import Emit, Report, ignore
from odin.feeds.credentials import CredentialSource
from odin.feeds.kite.text import (
    DEFAULT_MODE,
    Request,
    SetMode,
    Subscribe,
    Unsubscribe,
    decode_text,
    encode_request,
    is_refusal,
)
from odin.feeds.kite.wire import (
    HEARTBEAT,
    KiteDecoder,
    TokenMap,
)
from odin.feeds.socket import Connector, FeedSocket
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, Mode
from odin.settings import KiteSettings

log = logging.getLogger(__name__)

HEADERS: Final = {"X-Kite-Version": "3"}
CREDENTIALS: Final = ("api_key", "access_token")
CAPACITY: Final = 3000
"""Instruments on one connection: Kite's limit."""
BATCH: Final = 200
"""Tokens in one request: longer ones have been seen to be ignored in part."""
SILENCE_S: Final = 10.0
"""Kite has a heartbeat every second or two: a connection that says nothing for so long is dead."""
MAX_PROBLEM_CHARS: Final = 160


class KiteFeed:
    """Kite's market data; see `odin.feeds.base.Feed`.

    indices: keys by the text of their instrument_token.
    silence_s: the longest silence of a connection before it counts as broken.
    """

    name = "kite"
    is_simulated = False

    def __init__(
        self,
        settings: KiteSettings,
        *,
        credentials: CredentialSource,
        indices: Mapping[str, InstrumentKey],
        connector: Connector,
        metrics: Metrics,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._connector = connector
        self._metrics = metrics
        self._silence_s = silence_s
        self._tokens = TokenMap(indices)
        self._decoder = KiteDecoder(settings, indices)
        self._malformed = 0
        """What of the decoder's count is in the metrics."""
        self._shards = [_Shard(0)]
        self._homes: dict[int, _Shard] = {}
        """Where each instrument that is carried has its place."""
        self._waiting: dict[int, Mode] = {}
        """Those there is no room for, in the order they came."""
        self._foreign: set[InstrumentKey] = set()
        """Those Kite does not have."""
        self._has_grown = asyncio.Event()

    @property
    def left_out(self) -> int:
        """How many instruments are wanted and not carried: Kite has none such, or no room."""
        return len(self._waiting) + len(self._foreign)

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """Carry these too; what there is no room for waits until there is."""
        for instrument in instruments:
            token = self._tokens.instrument_token(instrument.key)
            if token is None:
                self._note_foreign(instrument.key)
            else:
                self._place(token, mode)

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Carry these no longer; those that wait take their places."""
        for key in keys:
            self._foreign.discard(key)
            token = self._tokens.instrument_token(key)
            if token in self._waiting:
                del self._waiting[token]
            elif token in self._homes:
                self._homes.pop(token).unwant(token)
        for token in list(self._waiting):
            if self._room() is None:
                return
            self._place(token, self._waiting.pop(token))

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        """Connect, and deliver until a connection breaks."""
        # Once for all connections: a command that logs in anew ends the token of the last login.
        secrets = await self._credentials.read(CREDENTIALS)
        self._decoder.reset()
        while len(self._shards) > 1 and not self._shards[-1].wanted:
            self._shards.pop()
        for shard in self._shards:
            shard.begin()
        self._has_grown = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                number = 0
                while True:
                    while number == len(self._shards):
                        self._has_grown.clear()
                        await self._has_grown.wait()
                    # One after the other, so that refused credentials are tried only once.
                    is_open = asyncio.Event()
                    shard = self._shards[number]
                    group.create_task(self._carry(shard, group, secrets, is_open, emit, report))
                    await is_open.wait()
                    number += 1
        except ExceptionGroup as errors:
            raise (errors.subgroup(FeedRejected) or errors).exceptions[0] from None

    async def _carry(
        self,
        shard: "_Shard",
        group: asyncio.TaskGroup,
        secrets: Mapping[str, str],
        is_open: asyncio.Event,
        emit: Emit,
        report: Report,
    ) -> None:
        """Open the connection of a shard and deliver what it brings, until it breaks."""
        url = self._settings.url
        async with self._connector.open(
            url, headers=HEADERS, params=secrets, stream=shard.number
        ) as socket:
            if shard.number == 0:
                report("login")
                report("ready")  # Kite refuses credentials at the handshake
            is_open.set()
            group.create_task(_tell(socket, shard))
            while True:
                data, received_ms = await socket.receive(self._silence_s)
                if isinstance(data, str):
                    self._read(data, secrets)
                elif len(data) == len(HEARTBEAT):
                    report("heard")
                else:
                    await socket.deliver(self._decoder.ticks(data, received_ms), emit)
                    self._metrics.feed_malformed += self._decoder.malformed - self._malformed
                    self._malformed = self._decoder.malformed

    def _read(self, text: str, secrets: Mapping[str, str]) -> None:
        """Take note of a text. Raises FeedRejected where it says so; orders are nobody's here."""
        try:
            problem = decode_text(text).problem
        except RemoteWireError:
            self._metrics.feed_malformed += 1
            return
        if problem is None:
            return
        for secret in secrets.values():
            problem = problem.replace(secret, "********")
        shown = reflect(problem, MAX_PROBLEM_CHARS)
        if is_refusal(problem):
            raise FeedRejected(f"the ticker said: {shown}")
        log.warning("the ticker of kite said: %s", shown)

    def _place(self, token: int, mode: Mode) -> None:
        shard = self._homes.get(token) or self._room()
        if shard is not None:
            self._homes[token] = shard
            shard.want(token, mode)
            return
        if not self._waiting:
            room = CAPACITY * self._settings.connections
            log.warning("kite has room for %d instruments, the others wait", room)
        self._waiting[token] = mode

    def _room(self) -> "_Shard | None":
        """Return a connection with room, a new one if need be; None where there can be none."""
        for shard in self._shards:
            if len(shard.wanted) < CAPACITY:
                return shard
        if len(self._shards) == self._settings.connections:
            return None
        self._shards.append(_Shard(len(self._shards)))
        self._has_grown.set()
        return self._shards[-1]

    def _note_foreign(self, key: InstrumentKey) -> None:
        if all(key[:2] != known[:2] for known in self._foreign):
            log.warning(
                "kite has no instruments of %s:%s (of indices: those in kite.indices)", *key[:2]
            )
        self._foreign.add(key)


class _Shard:
    """What one connection is to carry, and what the ticker has been told of it."""

    __slots__ = ("_changed", "_told", "has_changed", "number", "wanted")

    def __init__(self, number: int) -> None:
        self.number = number
        self.wanted: dict[int, Mode] = {}
        self.begin()

    def begin(self) -> None:
        """A connection begins: nothing has been told."""
        self._told: dict[int, Mode] = {}
        self._changed = dict.fromkeys(self.wanted)
        self.has_changed = asyncio.Event()
        if self._changed:
            self.has_changed.set()

    def want(self, token: int, mode: Mode) -> None:
        self.wanted[token] = mode
        self._note(token)

    def unwant(self, token: int) -> None:
        self.wanted.pop(token, None)
        self._note(token)

    def take_requests(self) -> list[Request]:
        """Return what has to be told now, in order, and take it as told."""
        changed = list(self._changed)
        self._changed.clear()
        self.has_changed.clear()
        gone = [token for token in changed if token in self._told and token not in self.wanted]
        fresh = [token for token in changed if token in self.wanted and token not in self._told]
        for token in gone:
            del self._told[token]
        self._told.update(dict.fromkeys(fresh, DEFAULT_MODE))
        others: dict[Mode, list[int]] = {}
        for token in changed:
            mode = self.wanted.get(token)
            if mode is not None and mode != self._told[token]:
                others.setdefault(mode, []).append(token)
                self._told[token] = mode
        return [
            *(Unsubscribe(batch) for batch in _batches(gone)),
            *(Subscribe(batch) for batch in _batches(fresh)),
            *(SetMode((mode, batch)) for mode in others for batch in _batches(others[mode])),
        ]

    def _note(self, token: int) -> None:
        self._changed[token] = None
        self.has_changed.set()


async def _tell(socket: FeedSocket, shard: _Shard) -> None:
    """Tell the ticker every change of what is wanted of a connection."""
    while True:
        await shard.has_changed.wait()
        for request in shard.take_requests():
            await socket.send(encode_request(request))


def _batches(tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for at in range(0, len(tokens), BATCH):
        yield tuple(tokens[at : at + BATCH])
