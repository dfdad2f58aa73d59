import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import {
  decodeGap,
  decodeMarketStatus,
  decodeQuote,
  decodeSnapshot,
  decodeSubscribe,
  decodeSubscriptions,
  decodeUnsubscribe,
  decodeWelcome,
  missingOf,
  nameOf,
} from "../src/messages.js";

const VECTORS = new URL("../../vectors/", import.meta.url);
const read = (file) => JSON.parse(readFileSync(new URL(file, VECTORS), "utf8"));
const vector = (name) => read(`${name}.json`).message;
const DECODERS = {
  welcome: decodeWelcome,
  market_data: decodeQuote,
  market_status: decodeMarketStatus,
  subscriptions: decodeSubscriptions,
  snapshot: decodeSnapshot,
  feed_gap: decodeGap,
  subscription_response: (message) =>
    message.data.action === "subscribe" ? decodeSubscribe(message) : decodeUnsubscribe(message),
  pong: (message) => message.status,
  error: (message) => message.message,
};

for (const file of readdirSync(VECTORS).filter((f) => /(?<!close_codes)\.json$/.test(f))) {
  test(`${file} is decoded`, () => {
    const { name, direction, message } = read(file);
    assert.equal(`${name}.json`, file);
    if (direction === "server_to_client") assert.ok(DECODERS[message.type](message));
  });
}

test("the guide's quote keeps every bit", () => {
  const message = vector("market_data");
  const quote = decodeQuote(message);
  assert.deepEqual(quote, { ...message.data, sentMs: message.timestamp, isSnapshot: false, mode: "quote" });
  assert.equal(quote.percent_change, -0.5172665015299366);
});

test("a last price is named by its message", () => {
  const { symbol, token, exchange, mode, ltp, open } = decodeQuote(vector("market_data_ltp"));
  assert.deepEqual([symbol, token, exchange, mode, ltp], ["RELIANCE", "2885", "NSE", "ltp", 1365.5]);
  assert.equal(open, undefined);
});

test("a full quote has its order book", () => {
  const { mode, avg_price, oi, depth, source } = decodeQuote(vector("market_data_full"));
  assert.deepEqual([mode, avg_price, oi, source], ["full", 1366.12, undefined, "kite"]);
  assert.deepEqual(depth.sell, [{ price: 1365.55, quantity: 75, orders: 2 }]);
});

test("a gap has its two ends", () => {
  const gap = { feed: "kite", fromMs: 1756971590198, toMs: 1756971602500 };
  assert.deepEqual(decodeGap(vector("feed_gap")), gap);
});

test("what is missing is asked for by mode, 500 at once, whatever the mode of what is held", () => {
  const listed = decodeSubscriptions(vector("subscriptions"));
  assert.deepEqual(listed.map(({ mode }) => mode), ["quote", "ltp", "full"]);
  const held = [{ ...listed[1], mode: "full" }];
  assert.deepEqual(missingOf(listed, held), [[["NSE:SBIN"], "quote"], [["BSE:RELIANCE"], "full"]]);
  const many = Array.from({ length: 1001 }, (_, n) => ({ ...listed[0], symbol: `S${n}` }));
  assert.deepEqual(missingOf(many, []).map(([names]) => names.length), [500, 500, 1]);
});

test("a snapshot quote says so, and what is not known is null", () => {
  const quote = decodeQuote(vector("market_data_snapshot"));
  assert.equal(quote.isSnapshot, true);
  assert.equal(quote.week_52_high, null);
});

for (const field of ["symbol", "token", "exchange", "ltp"]) {
  test(`a quote without ${field} is refused`, () => {
    const message = vector("market_data");
    delete message.data[field];
    assert.throws(() => decodeQuote(message), { name: "OdinError", message: `a quote without ${field}` });
  });
}

test("partial success names what failed and why", () => {
  const result = decodeSubscribe(vector("subscription_partial"));
  assert.deepEqual(result.subscribed, ["SBIN", "TCS"]);
  assert.deepEqual(result.alreadySubscribed, ["SBIN"]);
  assert.deepEqual(result.failed[0].suggestions, ["RELIANCE"]);
  assert.equal(result.totalSubscribed, 3);
});

test("failed names are enough where details are missing", () => {
  const message = vector("subscription_partial");
  delete message.data.failed_details;
  const stocks = decodeSubscribe(message).failed.map((failed) => failed.stock);
  assert.deepEqual(stocks, ["RELIANC", "999999999"]);
});

test("all failed is a result", () => {
  const result = decodeSubscribe(vector("subscription_all_failed"));
  assert.deepEqual(result.subscribed, []);
  assert.equal(result.failed.length, 1);
});

test("an unsubscribe tells both sides", () => {
  const result = decodeUnsubscribe(vector("unsubscription_partial"));
  assert.deepEqual(result.unsubscribed, ["SBIN"]);
  assert.equal(result.failed[0].code, "not_subscribed");
});

test("subscriptions are named so that the server knows them again", () => {
  const names = (name) => decodeSubscriptions(vector(name)).map(nameOf);
  assert.deepEqual(names("subscriptions"), ["NSE:SBIN", "NSE:RELIANCE", "BSE:RELIANCE"]);
  assert.deepEqual(names("subscriptions_guide"), ["3045", "2885", "11536"]);
});

test("unaligned subscriptions are refused", () => {
  const message = vector("subscriptions");
  message.data.subscribed_symbols.pop();
  assert.throws(() => decodeSubscriptions(message), /not aligned/);
});

test("a snapshot has quotes and failures", () => {
  const snapshot = decodeSnapshot(vector("snapshot"));
  assert.deepEqual(snapshot.quotes.map((quote) => quote.symbol), ["RELIANCE", "TCS"]);
  assert.ok(snapshot.quotes.every((quote) => quote.isSnapshot));
  assert.equal(snapshot.failed[0].stock, "NOPE");
});

test("the client_id of a welcome may stand in either place", () => {
  const message = vector("welcome_minimal");
  delete message.client_id;
  assert.equal(decodeWelcome(message).client_id, "trading_app_123");
});
