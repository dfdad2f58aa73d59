"""One Peer per WebSocket: reading, writing, heartbeat, limits, and how it ends.

Frames are written whole to the transport, past aiohttp's writer: the same bytes serve every
client (server frames are not masked), and nothing is awaited. This is sound because compression
is off, so each frame stands alone. Every message a client sends counts against its limit, pings
too, and nothing it does makes the server hold more for it than the limits say.
"""

import asyncio
import base64
import logging
import socket
import sys
from time import monotonic
from typing import Protocol

from aiohttp import WebSocketError, WSMsgType, web

from odin.errors import CLOSE_CODES, Disconnect
from odin.metrics import Metrics
from odin.protocols.accounts import TokenBucket
from odin.protocols.edge import EdgeSocket
from odin.settings import LimitSettings

if sys.platform == "linux":
    from fcntl import ioctl

log = logging.getLogger("odin.peer")

SEND_BUFFER_BYTES = 64 * 1024
"""Small on purpose: what the kernel holds for a slow reader can no longer be conflated. Not
smaller: with less than a segment of the loopback interface (64 KiB) every large write waits for a
delayed acknowledgement, and a whole recorded day took six times as long to arrive."""
SIOCOUTQNSD = 0x894B
"""Linux: what of a TCP socket was not sent. What the receiver's window lets through and what is on
its way do not count, or a client far away would seem slow."""
RATE_PATIENCE_S = 10.0
"""How long a client may go on sending faster than its limit before it is closed with 4429. It
stays over until half its burst is free again, not merely until the next request is let through."""
CLOSE_PATIENCE_S = 1.0
"""How long a close frame is tried on a socket that may not take it; then it is reset."""
KEY_BYTES = 16
PING = b"\x89\x00"
BEATS = 64
"""Looks in one ping interval, so that peers that came together are not all pinged together."""
_ANSWERED = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})
_MESSAGES = _ANSWERED | {WSMsgType.PING, WSMsgType.PONG}


def _unsent_bytes(sock: socket.socket) -> int:
    """Return what the kernel holds and could not send yet; 0 where it does not tell."""
    if sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # closed, or a kernel that only resembles Linux
        return 0


class Receiver(Protocol):
    """Where the messages of peers go, one at a time for each peer.

    What these raise ends the connection with the code of a Disconnect, or 1011 for anything
    unexpected.
    """

    async def on_text(self, peer: "Peer", text: str) -> None:
        """Carry out what a text message asks."""
        ...

    def on_binary(self, peer: "Peer") -> None:
        """Answer a binary message."""
        ...

    def on_rate_limited(self, peer: "Peer") -> None:
        """Answer a message that came too fast and is not carried out."""
        ...


class Heartbeat:
    """Looks at many peers with one timer, because each of its own took 0.5 KiB.

    One for all peers of an endpoint; they are looked at up to a beat later than they asked for.
    """

    def __init__(self, ping_interval_s: float) -> None:
        self._beat_s = ping_interval_s / BEATS
        self.ping_after_s = ping_interval_s - 2 * self._beat_s
        """Silence that is answered with a ping. The look that pings may be a beat late and the next
        one another: a peer that vanished is still gone after one and a half intervals."""
        self._due: dict[int, dict[Peer, None]] = {}
        """By the number of the beat, counted since the epoch of the monotonic clock."""
        self._is_beating = False

    def look_later(self, peer: "Peer", delay_s: float) -> int:
        """Have the peer's `look` called once; return the beat, for `forget`."""
        beat = int((monotonic() + delay_s) / self._beat_s) + 1
        self._due.setdefault(beat, {})[peer] = None
        if not self._is_beating:
            self._is_beating = True
            asyncio.get_running_loop().call_later(self._beat_s, self._look)
        return beat

    def forget(self, peer: "Peer", beat: int) -> None:
        """Do not look at the peer after all."""
        self._due.get(beat, {}).pop(peer, None)

    def _look(self) -> None:
        now = monotonic() / self._beat_s
        try:
            for beat in [beat for beat in self._due if beat <= now]:
                while self._due[beat]:
                    self._due[beat].popitem()[0].look()
                del self._due[beat]
        finally:  # a fault with one peer must not end the heartbeat of all others
            self._is_beating = bool(self._due)
            if self._is_beating:
                asyncio.get_running_loop().call_later(self._beat_s, self._look)


def check_handshake(request: web.Request) -> None:
    """Raise HTTPBadRequest for what RFC 6455 §4.2.1 forbids and aiohttp takes."""
    if request.body_exists:
        raise web.HTTPBadRequest(reason="A WebSocket handshake has no body")
    for name in ("Sec-WebSocket-Key", "Sec-WebSocket-Version"):
        if len(request.headers.getall(name, ())) != 1:
            raise web.HTTPBadRequest(reason=f"{name} was not there once")
    try:
        key = base64.b64decode(request.headers["Sec-WebSocket-Key"], validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise web.HTTPBadRequest(reason=f"Sec-WebSocket-Key was not {KEY_BYTES} bytes in base64")


class Peer:
    """One connected client. It is the hub's Sink for that client.

    subprotocol: what the handshake agrees to, one of those the client offered; "" for none.
    """

    __slots__ = (
        "_beat",
        "_bucket",
        "_ending",
        "_heard_at",
        "_heartbeat",
        "_held",
        "_limits",
        "_metrics",
        "_over_since",
        "_pinged_at",
        "_request",
        "_taken",
        "_transport",
        "_written",
        "_ws",
    )

    def __init__(
        self,
        request: web.Request,
        limits: LimitSettings,
        metrics: Metrics,
        heartbeat: Heartbeat,
        subprotocol: str = "",
    ) -> None:
        self._request = request
        self._limits = limits
        self._metrics = metrics
        # aiohttp refuses a message of exactly max_msg_size, so it is told one more.
        self._ws = EdgeSocket(
            autoping=False,
            compress=False,
            protocols=(subprotocol,) if subprotocol else (),
            max_msg_size=limits.message_bytes + 1,
            timeout=CLOSE_PATIENCE_S,
        )
        self._transport: asyncio.Transport | None = None
        self._bucket = TokenBucket(limits.requests_per_s, limits.request_burst, monotonic())
        self._over_since: float | None = None
        self._heartbeat = heartbeat
        self._beat = 0
        self._heard_at = 0.0
        self._pinged_at = 0.0
        self._written = 0
        self._held = 0
        self._taken = 0
        self._ending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Complete the handshake, or raise the HTTP error that refuses it."""
        check_handshake(self._request)
        await self._ws.prepare(self._request)
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client left during the handshake")
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._heard_at = monotonic()
        self._beat = self._heartbeat.look_later(self, self._heartbeat.ping_after_s)

    # ------------------------------------------------------------------ Sink

    def write(self, data: bytes) -> int:
        transport = self._transport
        if transport is None or self._ending is not None or transport.is_closing():
            return 0
        held = transport.get_write_buffer_size()
        self._written += len(data)
        transport.write(data)
        return held

    def backlog_bytes(self) -> int:
        transport = self._transport
        if transport is None:
            return 0
        held = transport.get_write_buffer_size()
        sock = transport.get_extra_info("socket")
        return held if sock is None or transport.is_closing() else held + _unsent_bytes(sock)

    def on_stalled(self) -> None:
        if self._ending is None:
            self._metrics.disconnects_slow += 1
            self.end(4408)

    def on_fault(self) -> None:
        self.end(1011)

    # ------------------------------------------------------------------ reading

    async def read(self, receiver: Receiver) -> None:
        """Read until the connection ends; never raises."""
        try:
            while True:
                message = await self._ws.receive()
                kind = message.type
                if kind not in _MESSAGES:
                    if isinstance(message.data, WebSocketError):
                        self._metrics.protocol_errors += 1
                        log.debug("a client broke the protocol", extra={"reason": message.data})
                    return
                self._heard_at = monotonic()
                if not self._may_ask():
                    if kind in _ANSWERED:
                        receiver.on_rate_limited(self)
                    # Not reading is what holds a flood back, and keeps the answers few.
                    await asyncio.sleep(1 / self._limits.requests_per_s)
                elif kind is WSMsgType.TEXT:
                    await receiver.on_text(self, message.data)
                elif kind is WSMsgType.BINARY:
                    receiver.on_binary(self)
                elif kind is WSMsgType.PING and self.backlog_bytes() <= SEND_BUFFER_BYTES:
                    self.write(bytes((0x8A, len(message.data))) + message.data)
        except Disconnect as reason:
            self.end(reason.code, reason.reason)
        except ConnectionError:
            return
        except Exception:
            self._metrics.faults += 1
            log.exception("a connection ended by a fault in the server")
            self.end(1011)
        finally:
            await self._finish()

    def _may_ask(self) -> bool:
        now = monotonic()
        if self._bucket.is_full(now, 0.5):
            self._over_since = None
        if self._bucket.take(now):
            return True
        self._metrics.requests_rate_limited += 1
        self._over_since = self._over_since or now
        if now - self._over_since > RATE_PATIENCE_S:
            raise Disconnect(4429)
        return False

    def look(self) -> None:
        """Ping a client that is silent, end one that answered no ping."""
        if self._ending is not None:
            return
        self._note_progress()
        if self._pinged_at > self._heard_at:
            self._metrics.disconnects_silent += 1
            self.end(4408, "no answer to a ping")
            return
        now = monotonic()
        left_s = self._heartbeat.ping_after_s - (now - self._heard_at)
        if left_s <= 0:
            # The pong of this ping must be here by the next look, half an interval from now.
            self.write(PING)
            self._pinged_at = now
            left_s = self._limits.ping_interval_s / 2
        self._beat = self._heartbeat.look_later(self, left_s)

    def _note_progress(self) -> None:
        """Hear a client that only takes: its pong may lie behind all it has yet to read.

        Where the kernel was full and has taken more since, the client has acknowledged some.
        """
        held = self.backlog_bytes()
        taken = self._written - held
        if self._held and taken > self._taken:
            self._heard_at = monotonic()
        self._held, self._taken = held, taken

    # ------------------------------------------------------------------ ending

    @property
    def is_ending(self) -> bool:
        """Whether this connection has been told to close."""
        return self._ending is not None

    def end(self, code: int, reason: str = "") -> None:
        """Close with a code, without waiting for it; the first call counts."""
        if self._ending is None:
            self._heartbeat.forget(self, self._beat)
            text = reason or CLOSE_CODES[code].reason
            self._ending = asyncio.ensure_future(self._close(code, text.encode()))

    async def _close(self, code: int, reason: bytes) -> None:
        """Try to close in order; a socket that does not take the close frame is reset."""
        transport = self._transport
        try:
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                await self._ws.close(code=code, message=reason)
                # close() may return with its frame still in our buffer: resetting would cut it.
                while transport is not None and transport.get_write_buffer_size():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except (TimeoutError, ConnectionError, RuntimeError):
            pass
        finally:
            if transport is not None and transport.get_write_buffer_size():
                transport.abort()

    async def _finish(self) -> None:
        self._heartbeat.forget(self, self._beat)
        if self._ending is not None:
            await asyncio.wait([self._ending])
        elif self._transport is not None and self._transport.get_write_buffer_size():
            # It said goodbye but takes nothing: what waits for it must not hold the socket open.
            asyncio.get_running_loop().call_later(CLOSE_PATIENCE_S, self._transport.abort)
        self._transport = None

    @property
    def response(self) -> web.WebSocketResponse:
        """What an aiohttp handler returns."""
        return self._ws
