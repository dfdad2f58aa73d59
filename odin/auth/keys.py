"""API keys: how they are made, and how one that was sent is recognised.

A key is `odin_<id>_<secret>`. The id is public: it names the key in lists, logs and the database.
The secret has 256 bits of chance, so its SHA-256 is all that needs to be kept: there is nothing to
guess that a slow hash would have to protect. Pure: no I/O.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable

from odin.model import ApiKey

_KEY = re.compile(r"odin_([0-9a-f]{8})_([A-Za-z0-9_-]{43})\Z", re.ASCII)
_NOBODY = secrets.token_hex(32)


def digest(secret: str) -> str:
    """Return what is kept of a secret: its SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def create(name: str, scopes: Collection[str], now_ms: int) -> tuple[ApiKey, str]:
    """Return a new key as it is kept, and its text, which nobody can be told again."""
    key_id = secrets.token_hex(4)
    secret = secrets.token_urlsafe(32)
    key = ApiKey(key_id, name, frozenset(scopes), digest(secret), now_ms)
    return key, f"odin_{key_id}_{secret}"


class KeyIndex:
    """The keys that are valid now, in memory."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def replace(self, keys: Iterable[ApiKey]) -> set[str]:
        """Take these keys instead; return the ids of those that are valid no more.

        A key whose scopes or secret are others than before counts as gone.
        """
        valid = {key.id: key for key in keys if key.revoked_ms is None}
        gone = {key_id for key_id, key in self._keys.items() if valid.get(key_id) != key}
        self._keys = valid
        return gone

    def get(self, key_id: str) -> ApiKey | None:
        """Return a valid key by its public id."""
        return self._keys.get(key_id)

    def find(self, text: str) -> ApiKey | None:
        """Return the key that a text is, None where it is none.

        Every answer costs the same work, so that its time does not tell which ids there are.
        """
        match = _KEY.match(text)
        key_id, secret = match.groups() if match else ("", text[:64])
        key = self._keys.get(key_id)
        is_right = hmac.compare_digest(
            digest(secret), _NOBODY if key is None else key.secret_sha256
        )
        return key if is_right else None
