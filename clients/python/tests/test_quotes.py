import asyncio

import pytest
from fake_server import STOCKS, market_data, quote

from odin_client import OdinError, Quote, QuoteStream, messages


def of(symbol: str, ltp: float) -> Quote:
    return messages.decode_market_data(market_data(quote(symbol, ltp)))


async def drain(stream: QuoteStream) -> list[tuple[str, float]]:
    stream.end()
    return [(q.symbol, q.ltp) async for q in stream]


async def test_a_slow_reader_gets_the_newest_of_each_stock() -> None:
    stream = QuoteStream()
    for ltp in (1.0, 2.0, 3.0):
        stream.put(of("SBIN", ltp))
        stream.put(of("TCS", ltp * 10))
    assert await drain(stream) == [("SBIN", 3.0), ("TCS", 30.0)]
    assert stream.skipped == 4


async def test_a_busy_stock_does_not_starve_the_others() -> None:
    stream = QuoteStream()
    stream.put(of("SBIN", 1.0))
    stream.put(of("TCS", 1.0))
    stream.put(of("SBIN", 2.0))
    assert (await anext(stream)).symbol == "SBIN"
    stream.put(of("SBIN", 3.0))
    assert (await anext(stream)).symbol == "TCS"


async def test_what_waits_is_bounded_by_the_number_of_stocks() -> None:
    stream = QuoteStream()
    for n in range(10_000):
        for symbol in STOCKS:
            stream.put(of(symbol, n + 1.0))
    assert len(await drain(stream)) == len(STOCKS)


@pytest.mark.parametrize("name", ["SBIN", "sbin", "3045", "NSE:SBIN", "NSE:3045"])
async def test_a_stream_takes_only_the_stocks_it_is_for(name: str) -> None:
    stream = QuoteStream([name])
    stream.put(of("TCS", 1.0))
    stream.put(of("SBIN", 2.0))
    assert await drain(stream) == [("SBIN", 2.0)]


async def test_an_idle_reader_wakes_for_a_quote() -> None:
    stream = QuoteStream()
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.put(of("SBIN", 1.0))
    assert (await reading).ltp == 1.0


async def test_the_error_comes_after_what_waits() -> None:
    stream = QuoteStream()
    stream.put(of("SBIN", 1.0))
    stream.end(OdinError("over"))
    assert (await anext(stream)).ltp == 1.0
    with pytest.raises(OdinError, match="over"):
        await anext(stream)
