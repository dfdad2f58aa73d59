"""The live feed of an ODIN broker.

One connection carries everything. Invariant: nothing is subscribed before the login was accepted,
and after it everything that is wanted is, whatever an earlier connection was told. What the server
says in words is shown escaped and bounded, and never with the secret in it. Reconnecting is the
supervisor's.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Final

from odin.clock import WallClock, ist_time_text
from odin.errors import FeedRejected, FeedUnavailable, LocalWireError, reflect
from odin.feeds.base import Emit, Report, ignore
from odin.feeds.credentials import CredentialSource
from odin.feeds.odinfeed.framing import encode_frame
from odin.feeds.odinfeed.requests import Login, Request, encode_request
from odin.feeds.odinfeed.subscriptions import Subscriptions
from odin.feeds.odinfeed.wire import (
    ADMIN_TEXT,
    DISCONNECT,
    LOGOFF,
    LOGON,
    LOGON_EXPIRES,
    LOGON_OK,
    MARKET_STATUS,
    TOKEN_NOT_FOUND,
    Notice,
    OdinDecoder,
)
from odin.feeds.socket import Connector, FeedSocket
from odin.metrics import Metrics
from odin.model import Instrument, InstrumentKey, Mode
from odin.settings import OdinFeedSettings

LOGIN_TIMEOUT_S: Final = 10.0
PACE_S: Final = 0.02
"""Between two requests."""
SLICE_BYTES: Final = 2_048
"""Decoded in one go: inflated, it may be a thousand times as much, and no message in it."""
MAX_NOTICES_LOGGED: Final = 50
"""Of one connection: a broker may send news all day long."""

log = logging.getLogger(__name__)
_wall = WallClock()


class OdinFeed:
    """One broker's broadcast; see `odin.feeds.base.Feed`.

    credentials: has user, and api_key where the broker wants one.
    indices: the key of each index by the server's token, "1_26000".
    login_timeout_s: how long the server may take to answer the login.
    pace_s: the pause between two requests.
    Raises ValueError for settings that have no meaning.
    """

    name = "odin"
    is_simulated = False

    def __init__(
        self,
        settings: OdinFeedSettings,
        *,
        credentials: CredentialSource,
        indices: Mapping[str, InstrumentKey],
        connector: Connector,
        metrics: Metrics,
        login_timeout_s: float = LOGIN_TIMEOUT_S,
        pace_s: float = PACE_S,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._connector = connector
        self._metrics = metrics
        self._login_timeout_s = login_timeout_s
        self._pace_s = pace_s
        self._decoder = OdinDecoder(settings, indices, self._heed)
        self._subscriptions = Subscriptions(is_binary=settings.is_binary)
        self._is_changed = asyncio.Event()
        self._refused: set[tuple[str, str]] = set()
        self._is_accepted = False
        self._secret = ""
        self._notices_left = 0
        self._report: Report = ignore

    def want(self, instruments: Sequence[Instrument], mode: Mode = "quote") -> None:
        """Carry these too; see `Feed`."""
        for instrument in instruments:
            scrip = self._decoder.numbering.scrip(instrument.key)
            if scrip is None:
                self._refuse(instrument.key)
            else:
                self._subscriptions.want(scrip, mode)
        self._is_changed.set()

    def unwant(self, keys: Sequence[InstrumentKey]) -> None:
        """Carry these no longer; see `Feed`."""
        for key in keys:
            scrip = self._decoder.numbering.scrip(key)
            if scrip is not None:
                self._subscriptions.unwant(scrip)
        self._is_changed.set()

    async def run(self, emit: Emit, report: Report = ignore) -> None:
        """Connect, log in, and deliver until the connection breaks; see `Feed`."""
        login = await self._read_login()
        self._begin(login.secret, report)
        async with self._connector.open(self._settings.url) as socket:
            try:
                await self._send(socket, login)
            except LocalWireError as error:
                raise FeedRejected(f"the credentials cannot be sent: {error}") from None
            report("login")
            try:
                async with asyncio.timeout(self._login_timeout_s):
                    while not self._is_accepted:
                        await self._receive(socket, emit)
            except TimeoutError:
                raise FeedUnavailable(
                    f"the login was not answered within {self._login_timeout_s:g} s"
                ) from None
            report("ready")
            await _first_end(self._keep_receiving(socket, emit), self._keep_subscribing(socket))

    async def _read_login(self) -> Login:
        found = await self._credentials.read(("user",), ("api_key",))
        return Login(found["user"], found["api_key"], self._settings.login)

    def _begin(self, secret: str, report: Report) -> None:
        """Forget the last connection."""
        self._decoder.reset()
        self._secret = secret
        self._report = report
        self._is_accepted = False
        self._notices_left = MAX_NOTICES_LOGGED

    # ------------------------------------------------------------------ receiving

    async def _keep_receiving(self, socket: FeedSocket, emit: Emit) -> None:
        while True:
            await self._receive(socket, emit)

    async def _receive(self, socket: FeedSocket, emit: Emit) -> None:
        data, received_ms = await socket.receive()
        before = self._decoder.malformed
        try:
            for start in range(0, len(data), SLICE_BYTES):
                if start:
                    await asyncio.sleep(0)
                piece = data[start : start + SLICE_BYTES]
                await socket.deliver(self._decoder.ticks(piece, received_ms), emit)
        finally:
            self._metrics.feed_malformed += self._decoder.malformed - before

    def _heed(self, notice: Notice) -> None:
        """Act on what the server says about the connection. Raises FeedError where it ends."""
        code = notice.code
        if code == LOGON:
            self._heed_logon(notice)
        elif code == TOKEN_NOT_FOUND:
            raise FeedRejected(f"the server does not know the token: {self._said(notice)}")
        elif code == LOGOFF:
            raise FeedUnavailable(f"the server logged us off: {self._said(notice)}")
        elif code == DISCONNECT:
            raise FeedUnavailable("the server disconnected the broadcast")
        else:
            self._report("heard")
            if code in {MARKET_STATUS, ADMIN_TEXT} and self._notices_left > 0:
                self._notices_left -= 1
                log.info("feed odin was told (%d): %s", code, self._said(notice))

    def _heed_logon(self, notice: Notice) -> None:
        status = notice.fields.get("70", "")
        if status not in {LOGON_OK, LOGON_EXPIRES}:
            raise FeedRejected(f"the login was refused: {self._said(notice)}")
        if status == LOGON_EXPIRES and not self._is_accepted:
            days = reflect(notice.fields.get("97", "some"), 8)
            log.warning("the login of feed odin expires in %s days", days)
        self._is_accepted = True

    def _said(self, notice: Notice) -> str:
        """What the server said, without the secret, should it have sent it back."""
        if not self._secret:
            return notice.text
        fields = {tag: text.replace(self._secret, "…") for tag, text in notice.fields.items()}
        return notice._replace(fields=fields).text

    # ------------------------------------------------------------------ sending

    async def _keep_subscribing(self, socket: FeedSocket) -> None:
        """Tell the server what is wanted, and whenever that changes."""
        self._subscriptions.restart()
        while True:
            self._is_changed.clear()
            while requests := self._subscriptions.next_requests():
                for request in requests:
                    await self._send(socket, request)
                    await asyncio.sleep(self._pace_s)
            await self._is_changed.wait()

    async def _send(self, socket: FeedSocket, request: Request) -> None:
        """Raises FeedUnavailable, and LocalWireError for a value that no request can hold."""
        now = ist_time_text(_wall.now_ms())
        text = encode_request(request, now, self._settings.version)
        await socket.send(encode_frame(text, self._settings.dialect))

    def _refuse(self, key: InstrumentKey) -> None:
        """Say once that the server has no such segment."""
        kind = (key.exchange, key.segment)
        if kind not in self._refused:
            self._refused.add(kind)
            log.warning("feed odin cannot carry %s:%s, see odin.segments", *map(reflect, kind))


async def _first_end(*work: Coroutine[None, None, None]) -> None:
    """Do things at once until one of them ends, then stop the others; raise what it raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
