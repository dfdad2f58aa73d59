import json
from pathlib import Path
from typing import Any

import pytest

from odin_client import OdinError, messages
from odin_client.messages import Depth, FailedStock, Feed, Gap, Level, Subscription

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
FILES = sorted(p for p in VECTORS.glob("*.json") if p.stem != "close_codes")
DECODERS = {
    "welcome": messages.decode_welcome,
    "market_data": messages.decode_market_data,
    "market_status": messages.decode_market_status,
    "subscriptions": messages.decode_subscriptions,
    "snapshot": messages.decode_snapshot,
    "feed_gap": messages.decode_gap,
}


def vector(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())["message"]


def decode(message: Any) -> Any:
    if message["type"] == "subscription_response":
        if message["data"]["action"] == "subscribe":
            return messages.decode_subscribe(message)
        return messages.decode_unsubscribe(message)
    return DECODERS[message["type"]](message)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_message_of_the_server_is_decoded(path: Path) -> None:
    content = json.loads(path.read_text())
    assert content["name"] == path.stem
    if content["direction"] == "server_to_client" and content["message"]["type"] not in (
        "error",
        "pong",
    ):
        assert decode(content["message"]) is not None


def test_the_guides_quote_keeps_every_bit() -> None:
    message = vector("market_data")
    quote = messages.decode_market_data(message)
    assert quote._asdict() == {
        **message["data"],
        "sent_ms": message["timestamp"],
        "is_snapshot": False,
        "mode": "quote",
        **dict.fromkeys(("avg_price", "total_buy_qty", "total_sell_qty", "oi", "source", "depth")),
    }
    assert quote.percent_change == -0.5172665015299366


def test_what_the_server_does_not_know_is_none() -> None:
    quote = messages.decode_market_data(vector("market_data_snapshot"))
    assert quote.is_snapshot
    assert (quote.symbol, quote.week_52_high, quote.percent_change) == ("TCS", None, None)


def test_a_last_price_is_named_by_its_message() -> None:
    quote = messages.decode_market_data(vector("market_data_ltp"))
    assert (quote.symbol, quote.token, quote.exchange) == ("RELIANCE", "2885", "NSE")
    assert (quote.mode, quote.ltp, quote.open, quote.last_updated) == ("ltp", 1365.5, None, None)


def test_a_full_quote_has_its_order_book() -> None:
    quote = messages.decode_market_data(vector("market_data_full"))
    assert quote.mode == "full"
    assert (quote.avg_price, quote.total_buy_qty, quote.oi) == (1366.12, 412345, None)
    assert quote.depth == Depth(
        (Level(1365.5, 120, 3), Level(1365.45, 800, 11)), (Level(1365.55, 75, 2),)
    )
    assert quote.source == "kite"


@pytest.mark.parametrize(
    "depth", [{}, {"buy": []}, {"buy": [{}], "sell": []}, {"buy": 1, "sell": 2}]
)
def test_an_order_book_that_is_none_is_refused(depth: Any) -> None:
    message = vector("market_data_full")
    message["data"]["depth"] = depth
    with pytest.raises(OdinError, match="a depth without sides"):
        messages.decode_market_data(message)


def test_a_gap_has_its_two_ends() -> None:
    gap = messages.decode_gap(vector("feed_gap"))
    assert gap == Gap("kite", 1756971590198, 1756971602500)


def test_the_status_names_every_feed() -> None:
    feeds = messages.decode_market_status(vector("market_status_push")).feeds
    assert [(feed.name, feed.state) for feed in feeds] == [("simulator", "stale")]
    assert messages.decode_market_status({"data": {}}).feeds == ()


def test_fields_of_a_newer_server_are_ignored() -> None:
    message = vector("market_data")
    message["data"]["spread"] = 0.05
    assert messages.decode_market_data(message).ltp == 1365.5


@pytest.mark.parametrize("field", ["symbol", "token", "exchange", "ltp"])
def test_a_quote_without_its_identity_is_refused(field: str) -> None:
    message = vector("market_data")
    del message["data"][field]
    with pytest.raises(OdinError, match="without symbol"):
        messages.decode_market_data(message)


def test_a_message_without_data_is_refused() -> None:
    with pytest.raises(OdinError, match="welcome message without data"):
        messages.decode_welcome({"type": "welcome"})


def test_partial_success_names_what_failed_and_why() -> None:
    result = messages.decode_subscribe(vector("subscription_partial"))
    assert result.subscribed == ("SBIN", "TCS")
    assert result.already_subscribed == ("SBIN",)
    assert result.failed[0] == FailedStock(
        "RELIANC", "unknown_symbol", "No instrument is called RELIANC", ("RELIANCE",)
    )
    assert result.total_subscribed == 3


def test_failed_names_are_enough_where_details_are_missing() -> None:
    message = vector("subscription_partial")
    del message["data"]["failed_details"]
    failed = messages.decode_subscribe(message).failed
    assert [f.stock for f in failed] == ["RELIANC", "999999999"]


def test_all_failed_is_a_result() -> None:
    result = messages.decode_subscribe(vector("subscription_all_failed"))
    assert result.subscribed == ()
    assert len(result.failed) == 1


def test_an_unsubscribe_tells_both_sides() -> None:
    result = messages.decode_unsubscribe(vector("unsubscription_partial"))
    assert result.unsubscribed == ("SBIN",)
    assert result.failed[0].code == "not_subscribed"
    assert result.total_subscribed == 1


def test_subscriptions_are_named_so_that_the_server_knows_them_again() -> None:
    listed = messages.decode_subscriptions(vector("subscriptions"))
    assert listed[2] == Subscription("RELIANCE", "500325", "BSE", "full")
    assert [s.mode for s in listed] == ["quote", "ltp", "full"]
    assert [s.name for s in listed] == ["NSE:SBIN", "NSE:RELIANCE", "BSE:RELIANCE"]


def test_subscriptions_without_exchanges_are_named_by_token() -> None:
    listed = messages.decode_subscriptions(vector("subscriptions_guide"))
    assert [s.name for s in listed] == ["3045", "2885", "11536"]
    assert {s.mode for s in listed} == {"quote"}, "as an older server has them"


def test_unaligned_subscriptions_are_refused() -> None:
    message = vector("subscriptions")
    message["data"]["subscribed_symbols"].pop()
    with pytest.raises(OdinError, match="not aligned"):
        messages.decode_subscriptions(message)


def test_a_status_push_says_when_the_feed_is_stale() -> None:
    status = messages.decode_market_status(vector("market_status_push"))
    assert not status.market_open
    assert status.feed == Feed("simulator", "stale", is_stale=True)


def test_the_welcome_of_an_older_server_is_enough() -> None:
    welcome = messages.decode_welcome(vector("welcome_minimal"))
    assert (welcome.client_id, welcome.restored, welcome.limits) == ("trading_app_123", 0, {})
    assert welcome.feed is None


def test_a_welcome_tells_limits_and_what_was_restored() -> None:
    welcome = messages.decode_welcome(vector("welcome"))
    assert welcome.restored == 2
    assert welcome.limits["stocks_per_request"] == 1000
    assert welcome.simulated


def test_a_snapshot_has_quotes_and_failures() -> None:
    snapshot = messages.decode_snapshot(vector("snapshot"))
    assert [(q.symbol, q.is_snapshot) for q in snapshot.quotes] == [
        ("RELIANCE", True),
        ("TCS", True),
    ]
    assert snapshot.failed[0].stock == "NOPE"
