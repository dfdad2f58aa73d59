"""Keys, tickets and tokens used in right and wrong ways: none is seen again anywhere."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from odin.feeds.kite.text import Text
from odin.feeds.odinfeed.wire import ADMIN_TEXT
from tests.support.kite_server import KiteServer
from tests.support.odin_server import OdinServer
from tests.support.process import Process, odin, run_odin
from tests.support.raw import Raw
from tests.support.server import Client


class Ledger:
    """Every secret that was used, and everything the server said."""

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.answers: list[bytes] = []

    def secret(self, text: str) -> str:
        self.secrets.append(text.split("_", 2)[2])
        return text

    def check(self, *files: Path) -> None:
        """Look for every secret, and for the half of it, in answers and files."""
        places = [*self.answers, *(path.read_bytes() for path in files)]
        assert all(places)
        for secret in self.secrets:
            for part in (secret, secret[:12], secret[-12:]):
                for place in places:
                    at = place.find(part.encode())
                    assert at < 0, place[max(0, at - 200) : at + 100]


async def get(server: Process, ledger: Ledger, path: str, **options: Any) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.request(options.pop("method", "GET"), server.http + path, **options) as response,
    ):
        ledger.answers.append(repr(response.raw_headers).encode() + await response.read() + b".")
        return response.status


async def raw(server: Process, ledger: Ledger, request: bytes) -> None:
    async with Raw(server.http) as connection:
        connection.send(request)
        ledger.answers.append(await connection.rest() + b".")


async def stream(
    server: Process, ledger: Ledger, query: str, *messages: Any, **options: Any
) -> int:
    """Connect, send messages and read to the end of what follows; return how it closed."""
    async with aiohttp.ClientSession() as session:
        try:
            ws = await session.ws_connect(server.ws + query, **options)
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        for message in messages:
            await ws.send_json(message) if isinstance(message, dict) else await ws.send_str(message)
        await ws.send_str('{"action":"ping"}')
        while (got := await ws.receive(timeout=5)).type is aiohttp.WSMsgType.TEXT:
            ledger.answers.append(got.data.encode())
            if got.json()["type"] == "pong":
                break
        await ws.close()
        return ws.close_code or 0


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_no_secret_is_seen_again(tmp_path: Path, log_format: str) -> None:
    database, log = tmp_path / "odin.db", tmp_path / "log"
    ledger = Ledger()
    key, gone = [
        ledger.secret((await run_odin("keys", "create", "a", "--db", database))[1].split()[0])
        for _ in range(2)
    ]
    wrong = ledger.secret(f"odin_{key[5:13]}_" + "WrongSecretWrongSecretWrongSecretWrongSecre")
    await run_odin("keys", "revoke", gone, "--db", database)
    environ = {
        "ODIN_LOG__FORMAT": log_format,
        "ODIN_AUTH__REQUIRE_RESUME_TOKEN": "true",
        # By turns, so that one address does not run out of failures.
        "ODIN_SERVER__TRUSTED_PROXIES": "127.0.0.1",
    }
    options = ("--auth", "required", "--log-level", "debug", "--port", "0", "--db", database)
    async with odin("demo", *options, log=log, **environ) as server:
        turn = iter(range(1000))

        def bearer(text: str, **more: str) -> dict[str, dict[str, str]]:
            address = f"192.0.2.{next(turn)}"
            return {
                "headers": {
                    "Authorization": f"Bearer {text}",
                    "X-Forwarded-For": address,
                    **more,
                }
            }

        # Right ways.
        assert await get(server, ledger, "/api/market-status", **bearer(key)) == 200
        assert await stream(server, ledger, "?client_id=x", **bearer(key)) != 401
        login = {"action": "authenticate", "api_key": key}
        assert await stream(server, ledger, "?client_id=y", login) != 4401
        async with aiohttp.ClientSession() as session:
            url = server.http + "/api/tickets"
            async with session.post(url, **bearer(key)) as response:
                ticket = ledger.secret((await response.json())["ticket"])
        assert await stream(server, ledger, f"?client_id=z&ticket={ticket}") not in {401, 4401}
        async with Client(server.ws, "owner", **bearer(key)) as client:
            token = ledger.secret(client.welcome["data"]["resume_token"])
            await client.subscribe("SBIN")
        resume = bearer(key, **{"X-Resume-Token": token})
        assert await stream(server, ledger, "?client_id=owner", **resume) != 4403

        # Wrong ways.
        for text in (wrong, gone):
            assert await get(server, ledger, "/metrics", **bearer(text)) == 401
            assert await stream(server, ledger, "", **bearer(text)) == 401
            bad = {"action": "authenticate", "api_key": text, "resume_token": token}
            assert await stream(server, ledger, "?client_id=y", bad) == 4401
        assert await stream(server, ledger, f"?client_id=z&ticket={ticket}") == 401
        assert await stream(server, ledger, "?client_id=owner", **bearer(key)) == 4403
        for path in (f"/{key}", f"/api/{key}?api_key={key}", f"/api/quotes?stocks=&key={key}"):
            await get(server, ledger, path, **bearer(key))
            await get(server, ledger, path, method="POST", **bearer(key))
        for secret in (key, ticket, token):
            await stream(server, ledger, f"?client_id={secret}/&token={secret}")
            await stream(server, ledger, f"?format={secret}", **bearer(key))
            for message in (
                {"action": secret},
                {"action": "authenticate", "api_key": [secret]},
                {"action": {"secret": secret}},
                f"authenticate {secret}",
                f'{{"action":"{secret}',
                secret,
            ):
                await stream(server, ledger, "?client_id=w", message)
                await stream(server, ledger, f"?client_id=v{next(turn)}", message, **bearer(key))
            for request in (
                f"GET /?{secret} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\x00\r\n\r\n",
                f"GET /?{secret}\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
                f"{secret}\r\n\r\n",
                f"GET / HTTP/1.1\r\nHost: x\r\nBearer {secret}\r\n\r\n",
                f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {secret}\r\n\r\n",
                f"GET / HTTP/1.1\r\nHost: x\r\nX: {'x' * 9000}{secret}\r\n\r\n",
            ):
                await raw(server, ledger, request.encode())
        assert await server.stop() == 0
    _, listed = await run_odin("keys", "list", "--db", database)
    _, clients = await run_odin("clients", "list", "--db", database)
    ledger.answers += [listed.encode(), clients.encode()]
    ledger.check(log, database)
    assert b"owner" in clients.encode()


@pytest.mark.parametrize("name", ["kite", "odin"])
async def test_no_secret_of_a_feed_is_seen_again(tmp_path: Path, name: str) -> None:
    """However its venue behaves: gone, repeating the secret, refusing it."""
    venue = KiteServer() if name == "kite" else OdinServer()
    database, log, captures = tmp_path / "odin.db", tmp_path / "log", tmp_path / "captures"
    credentials = tmp_path / "credentials"
    ledger = Ledger()
    secrets = {"api_key": "apiKeySecretapiKeySecret"}
    if name == "kite":
        secrets["access_token"] = "accessTokenSecretaccessTokenSecret"
    ledger.secrets += secrets.values()
    lines = [f"{what}={secret}\n" for what, secret in secrets.items()]
    credentials.write_text("".join([*lines, "user=U1\n"]))
    await venue.start()
    environ = {
        "ODIN_MARKET__GATE": "always",
        "ODIN_FEED__KIND": name,
        "ODIN_FEED__CAPTURE_DIR": str(captures),
        f"ODIN_{name.upper()}__URL": venue.url,
        f"ODIN_{name.upper()}__CREDENTIALS": f"file:{credentials}",
    }
    options = ("--log-level", "debug", "--port", "0", "--db", database)
    try:
        async with (
            odin("serve", *options, log=log, **environ) as server,
            Client(server.ws, "me") as client,
        ):

            async def look(state: str) -> None:
                """Wait until the feed is in a state, and read everything that tells of it."""
                await get(server, ledger, "/health")
                async with asyncio.timeout(20):
                    while f'"state":"{state}"'.encode() not in ledger.answers[-1]:
                        await get(server, ledger, "/health")
                for path in ("/", "/metrics", "/api/market-status"):
                    await get(server, ledger, path)
                ledger.answers.append(repr(await client.ask("market_status")).encode())

            await client.subscribe("SBIN")
            await look("streaming")
            port = int(venue.url.rpartition(":")[2])
            await venue.stop()
            await look("backoff")
            await venue.start(port)
            await look("streaming")
            for secret in ledger.secrets:
                if isinstance(venue, KiteServer):
                    venue.say(Text("message", f"dear {secret}"))
                else:
                    venue.say(ADMIN_TEXT, (1, f"dear {secret}"))
            venue.refuse_credentials()
            venue.drop()
            await look("rejected")
            assert await server.stop() == 0
    finally:
        await venue.stop()
    ledger.check(log, database)
    assert list(captures.iterdir())
