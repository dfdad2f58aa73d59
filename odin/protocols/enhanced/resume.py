"""The resume token of one client_id: who has it, and nobody else, continues the session.

A token is offered with a welcome, and binds once its client has shown that it has it: by a request
on the connection that was told, or by bringing it. Until then each newcomer is offered another, so
that nobody is locked out by a welcome that was lost with its connection.
"""

import hmac
import secrets
from contextlib import suppress
from typing import Protocol, Self

from odin.auth.keys import digest
from odin.errors import ClientError, StoreUnavailable


class TokenStore(Protocol):
    """Where the hashes of tokens are kept, with the row of their client."""

    async def resume_sha256(self, client_id: str) -> str | None:
        """Return the hash of the client's resume token, None where it has none."""
        ...

    async def keep_resume_token(self, client_id: str, resume_sha256: str) -> None:
        """Keep the hash of a known client's first resume token; never waits for a lock."""
        ...


class ResumeToken:
    """What is known of one client_id's token while its session is in memory."""

    __slots__ = ("_is_bound", "_is_kept", "_store", "sha256")

    def __init__(self, store: TokenStore, sha256: str | None) -> None:
        self._store = store
        self.sha256 = sha256
        """Of the token that was offered last, or that binds; None before the first offer."""
        self._is_bound = self._is_kept = sha256 is not None

    @classmethod
    async def read(cls, store: TokenStore, client_id: str) -> Self:
        """Return what the store knows. Raises StoreUnavailable."""
        return cls(store, await store.resume_sha256(client_id))

    def accept(self, token: str) -> str:
        """Return "" for the token, and a new one to offer while none binds. Raises ClientError
        resume_token_required for another text."""
        if self.sha256 is not None and hmac.compare_digest(digest(token), self.sha256):
            self._is_bound = True
            return ""
        if self._is_bound:
            raise ClientError("resume_token_required")
        new = f"odin_resume_{secrets.token_urlsafe(32)}"
        self.sha256 = digest(new)
        return new

    async def bind(self, client_id: str, *, has_row: bool) -> None:
        """Note a request on the connection that was told the token, or brought it.

        has_row: whether the database knows the client: it is kept there now. Otherwise, and where
            the database is in trouble, it is with the next subscription.
        """
        self._is_bound = True
        if self.sha256 is None or self._is_kept:
            return
        self._is_kept = True
        if has_row:
            with suppress(StoreUnavailable):
                await self._store.keep_resume_token(client_id, self.sha256)
