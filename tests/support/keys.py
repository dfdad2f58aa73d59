"""API keys for tests, made and revoked as the command line does: by another connection."""

from odin.auth.keys import create
from odin.store.sqlite import SqliteStore
from tests.support.server import Server

REQUIRED = {"mode": "required"}


async def make_key(server: Server, *scopes: str) -> str:
    """Make a key that the server knows already, and return its text."""
    key, text = create("test", scopes or ("stream",), 0)
    async with await SqliteStore.open(server.node.settings.store.path, is_tool=True) as store:
        await store.add_api_key(key)
    await server.node.access.refresh()
    return text


async def revoke_key(server: Server, text: str) -> None:
    """Revoke a key; the running server finds out by itself."""
    async with await SqliteStore.open(server.node.settings.store.path, is_tool=True) as store:
        assert await store.revoke_api_key(text.split("_")[1], 1)


def bearer(text: str, **more: str) -> dict[str, dict[str, str]]:
    """Return the options of a Client that brings the key."""
    return {"headers": {"Authorization": f"Bearer {text}", **more}}
