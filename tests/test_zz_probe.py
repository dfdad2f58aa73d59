import asyncio, time, sqlite3
import pytest
from tests.support.server import *
from tests.support.raw import *
from odin.model import Instrument
from odin.clock import *


async def test_unsub_cost(tmp_path):
    async with (
        running(tmp_path, limits=dict(request_burst=1000)) as server,
        Client(server.ws, "me") as c,
    ):
        many = [
            Instrument(InstrumentKey("NSE", "CM", 100000 + n), f"STOCK{n}", series="EQ")
            for n in range(3000)
        ]
        print(await server.node.store.save_instruments(many, [], "t", 1))
        print(
            await server.node.store.instruments_version(),
            server.node._instruments_version,
            len(await server.node.store.load_instruments()),
        )
        await asyncio.sleep(2.5)
        print(server.node._tasks, len(server.node.registry))
        print(server.node.registry.get(many[0].key))
        for k in range(3):
            print(
                (await c.subscribe(*[f"STOCK{n}" for n in range(k * 1000, k * 1000 + 1000)]))[
                    "data"
                ]["total_subscribed"]
            )
        for _ in range(3):
            t = time.perf_counter()
            a = await c.ask("unsubscribe", stocks=[f"NOPE{n}" for n in range(1000)])
            print("UNSUB", time.perf_counter() - t, len(a["data"]["failed_stocks"]))
        t = time.perf_counter()
        a = await c.subscribe(*[f"NOPE{n}" for n in range(1000)])
        print("SUB", time.perf_counter() - t, len(str(a)))
        a = await c.ask("unsubscribe", stocks=["\u017fTOCK1"])
        print("CONFUSABLE", a["data"])
