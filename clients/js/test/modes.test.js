/** Modes of subscriptions, and gaps, against a server that forgets on purpose. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { OdinClient } from "../src/odin-client.js";
import { FakeServer } from "./fake-server.js";
import { Heard } from "./heard.js";

let fake;
let client;
let states;

beforeEach(async () => {
  fake = await FakeServer.start();
  client = new OdinClient(fake.url, { clientId: "me", minDelayMs: 10, maxDelayMs: 20 });
  states = new Heard();
  client.on("state", states.add);
});

afterEach(async () => {
  client.close();
  await fake.stop();
});

async function reconnect() {
  const times = states.count("connected");
  fake.drop();
  await states.until(() => states.count("connected") > times);
}

const modes = async () =>
  Object.fromEntries((await client.subscriptions()).map(({ symbol, mode }) => [symbol, mode]));

/** Resolves when the client has looked at the server's list after a change. */
async function listing() {
  const asked = () => fake.actions.filter((action) => action === "get_subscriptions").length;
  const before = asked();
  await fake.until(() => asked() > before);
  await client.ping();
}

test("a mode is asked for only where the program names one", async () => {
  await client.connect();
  await client.subscribe("SBIN");
  await client.subscribe("TCS", "full");
  const asked = fake.requests.filter(({ action }) => action === "subscribe");
  assert.deepEqual(asked.map((request) => "mode" in request), [false, true]);
  assert.deepEqual(await modes(), { SBIN: "quote", TCS: "full" });
});

test("what the server lost comes back in its mode", async () => {
  await client.connect();
  await client.subscribe(["SBIN", "TCS"], "full");
  await client.subscribe("INFY");
  await listing();
  await client.subscribe("SBIN", "ltp"); // not listed yet
  fake.held.clear();
  fake.modes = {};
  await reconnect();
  assert.deepEqual(await modes(), { SBIN: "ltp", TCS: "full", INFY: "quote" });
});

test("the server is right about the modes of what it holds", async () => {
  await client.connect();
  await client.subscribe("SBIN", "full");
  await listing();
  fake.modes.SBIN = "ltp"; // another program of this clientId
  await reconnect();
  assert.equal(fake.actions.filter((action) => action === "subscribe").length, 1);
  assert.deepEqual(await modes(), { SBIN: "ltp" });
});

test("a reconnect tells a last price only if it is news", async () => {
  const quotes = new Heard();
  client.on("quote", quotes.add);
  await client.connect();
  const names = { symbol: "SBIN", token: "3045", exchange: "NSE" };
  for (const [ltp, timestamp] of [[800, 1], [800, 1], [801, 1], [801, 2]]) {
    const data = { ltp, percent_change: 0.1, timestamp };
    fake.lastQuotes = [{ type: "market_data", ...names, data, mode: "ltp" }];
    await reconnect();
  }
  const seen = quotes.values.map(({ symbol, ltp, timestamp }) => [symbol, ltp, timestamp]);
  assert.deepEqual(seen, [["SBIN", 800, 1], ["SBIN", 801, 1], ["SBIN", 801, 2]]);
});

test("gaps are told", async () => {
  const gaps = new Heard();
  client.on("gap", gaps.add);
  await client.connect();
  fake.push({ type: "feed_gap", data: { feed: "kite", from: 5, to: 9 } });
  await gaps.until((values) => values.length);
  assert.deepEqual(gaps.values, [{ feed: "kite", fromMs: 5, toMs: 9 }]);
});
