"""Connections that bring their credentials in a first message, as browsers must."""

import asyncio
from typing import TYPE_CHECKING

from odin.errors import ClientError
from odin.protocols.access import close_code
from odin.protocols.base import Peer
from odin.protocols.enhanced import wire
from odin.protocols.enhanced.session import Session
from odin.topics import Encoding

if TYPE_CHECKING:
    from odin.protocols.enhanced.endpoint import EnhancedEndpoint

PATIENCE_S = 10.0
"""How long a connection may take to say who it is."""


class Door:
    """The Receiver of one connection: nothing passes before `authenticate`, all after it."""

    def __init__(
        self,
        endpoint: "EnhancedEndpoint",
        address: str,
        client_id: str,
        encoding: Encoding,
        resume_token: str,
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        self._client_id = client_id
        self._encoding = encoding
        self._resume_token = resume_token
        self._session: Session | None = None
        self.key_id = ""
        """Of the key it named, whose connection was counted; "" before it did."""

    async def serve(self, peer: Peer) -> None:
        """Read to the end of the connection."""
        self._endpoint.meet(peer)
        late = asyncio.get_running_loop().call_later(PATIENCE_S, self._on_late, peer)
        try:
            await peer.read(self)
        finally:
            late.cancel()

    def leave(self, peer: Peer) -> None:
        """Let go of what the connection held."""
        self._endpoint.part(peer)
        if self._session is not None:
            self._endpoint.exit(self._session, peer)

    async def on_text(self, peer: Peer, text: str) -> None:
        if self._session is not None:
            await self._session.on_text(peer, text)
        elif not peer.is_ending:
            await self._authenticate(peer, text)

    def on_binary(self, peer: Peer) -> None:
        if self._session is not None:
            self._session.on_binary(peer)
        else:
            self._turn_away(peer, ClientError("authentication_required"))

    def on_rate_limited(self, peer: Peer) -> None:
        if self._session is not None:
            self._session.on_rate_limited(peer)
        else:
            self._turn_away(peer, ClientError("authentication_required"))

    async def _authenticate(self, peer: Peer, text: str) -> None:
        try:
            credentials = wire.decode_credentials(text)
            key = await self._endpoint.authenticate(credentials, self._address)
        except ClientError as error:
            self._turn_away(peer, error)
            return
        self.key_id = key.id
        if peer.is_ending:  # it took too long: nobody's session may be lost to it
            return
        self._session = self._endpoint.enter(self._client_id, key.id)
        self._endpoint.part(peer)
        token = credentials.resume_token or self._resume_token
        await self._endpoint.join(self._session, peer, self._encoding, token, key)

    def _on_late(self, peer: Peer) -> None:
        if self._session is None:
            self._turn_away(peer, ClientError("authentication_required"))

    def _turn_away(self, peer: Peer, error: ClientError) -> None:
        if not peer.is_ending:
            self._endpoint.turn_away(peer, error, close_code(error), self._client_id)
