/** The client against a server that misbehaves on purpose. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import {
  ConnectFailed,
  ConnectionClosed,
  OdinClient,
  OdinStreamerClient,
  RequestError,
  RequestTimeout,
  TakenOver,
} from "../src/odin-client.js";
import { FakeServer, marketData } from "./fake-server.js";
import { Heard } from "./heard.js";

const QUICK = { minDelayMs: 10, maxDelayMs: 20, requestTimeoutMs: 5_000 };
let fake;
let clients;

beforeEach(async () => {
  fake = await FakeServer.start();
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.close();
  await fake.stop();
});

function clientOf(options = {}, url = fake.url) {
  const client = new OdinClient(url, { clientId: "me", ...QUICK, ...options });
  clients.push(client);
  return client;
}

/** A client, its states and its errors, connected. */
async function connected(options = {}) {
  const client = clientOf(options);
  const [states, errors, quotes] = [new Heard(), new Heard(), new Heard()];
  client.on("state", states.add);
  client.on("error", errors.add);
  client.on("quote", quotes.add);
  await client.connect();
  const again = (times) => states.until(() => states.count("connected") >= times);
  return { client, states, errors, quotes, again };
}

/** Resolves when the client has looked at the server's list after a change. */
async function listing(client) {
  const asked = () => fake.actions.filter((action) => action === "get_subscriptions").length;
  const before = asked();
  await fake.until(() => asked() > before);
  await client.ping();
}

describe("making one", () => {
  for (const url of ["http://localhost:8080", "localhost:8080"]) {
    test(`${url} is no address`, () => assert.throws(() => new OdinClient(url), /ws:\/\/HOST/));
  }

  for (const clientId of ["", "a b", "x".repeat(129), "é", "a\n"]) {
    test(`${JSON.stringify(clientId.slice(0, 9))} is no client_id`, () => {
      assert.throws(() => new OdinClient("ws://localhost", { clientId }), /clientId must be/);
    });
  }

  for (const format of ["xml", "JSON", "", null]) {
    test(`${JSON.stringify(format)} is no format`, () => {
      const choices = `json, json-delta, msgpack, msgpack-delta, binary, was ${format}`;
      const wrong = { name: "TypeError", message: `format must be one of ${choices}` };
      assert.throws(() => new OdinClient("ws://localhost", { format }), wrong);
    });
  }

  test("the path may be left out", async () => {
    await clientOf({}, fake.url.replace("/enhanced-stream", "")).connect();
    assert.equal(fake.connects, 1);
  });
});

describe("connecting", () => {
  test("states are told in order", async () => {
    const { client, states, again } = await connected();
    fake.drop();
    await again(2);
    client.close();
    const told = ["connecting", "connected", "reconnecting", "connected", "closed"];
    assert.deepEqual(states.values, told);
  });

  test("a server that is not there is told after the timeout", async () => {
    const client = clientOf({ connectTimeoutMs: 100 }, "ws://127.0.0.1:9");
    await assert.rejects(client.connect(), (error) => {
      assert.ok(error instanceof ConnectFailed);
      return /could not be reached/.test(error.message);
    });
    assert.equal(client.state, "closed");
  });

  for (const status of [400, 403, 404]) {
    test(`HTTP ${status} is told at once`, async () => {
      fake.refuseStatus = status;
      await assert.rejects(clientOf().connect(), (error) => error.status === status);
      assert.equal(fake.connects, 1);
    });
  }

  test("a full server is tried again", async () => {
    fake.refuseStatus = 503;
    const connecting = clientOf().connect();
    await fake.until(() => fake.connects >= 3);
    fake.refuseStatus = 0;
    await connecting;
  });

  test("a server without a welcome is left", async () => {
    fake.isGreeting = false;
    const connecting = clientOf({ requestTimeoutMs: 50 }).connect();
    await fake.until(() => fake.connects >= 2);
    fake.isGreeting = true;
    await connecting;
  });

  test("connecting twice is an error", async () => {
    const { client } = await connected();
    await assert.rejects(client.connect(), /already connected/);
  });

  test("a closed client connects again, with the listeners it had", async () => {
    const { client, quotes } = await connected();
    client.close();
    await client.connect();
    await fake.until(() => fake.wss.clients.size === 1);
    fake.push(marketData("SBIN", 1));
    await quotes.until((values) => values.length === 1);
  });

  test("closing while connecting rejects", async () => {
    const client = clientOf();
    const connecting = client.connect();
    client.close();
    await assert.rejects(connecting, ConnectionClosed);
    assert.equal(client.state, "closed");
  });

  test("the generated client_id is kept", async () => {
    const { client, again } = await connected({ clientId: undefined });
    assert.equal(client.clientId, "made_up");
    fake.clientIds.length = 0;
    fake.drop();
    await again(2);
    assert.deepEqual(fake.clientIds, ["made_up"]);
  });

  test("a WebSocket class may be given", async () => {
    const { WebSocket } = await import("ws");
    let made = 0;
    class Counted extends WebSocket {
      constructor(url) {
        super(url);
        made += 1;
      }
    }
    await clientOf({ WebSocket: Counted }).connect();
    assert.equal(made, 1);
  });
});

describe("requests", () => {
  test("answers find their requests", async () => {
    const { client } = await connected();
    const [subscribed, listed, status, pong, snapshot] = await Promise.all([
      client.subscribe(["SBIN", 2885, "NOPE"]),
      client.subscriptions(),
      client.marketStatus(),
      client.ping(),
      client.snapshot("TCS"),
    ]);
    assert.deepEqual(subscribed.subscribed, ["SBIN", "RELIANCE"]);
    assert.equal(subscribed.failed[0].stock, "NOPE");
    assert.deepEqual(listed.map((stock) => stock.token), ["3045", "2885"]);
    assert.equal(status.market_open, false);
    assert.ok(pong > 0 && pong < 5_000);
    assert.equal(snapshot.quotes[0].symbol, "TCS");
  });

  test("a refused request rejects with its code", async () => {
    const { client, errors } = await connected();
    await assert.rejects(client.subscribe([]), (error) => {
      assert.ok(error instanceof RequestError);
      return error.code === "no_stocks_subscribe";
    });
    assert.deepEqual(errors.values, []);
  });

  test("an error without request_id is the oldest request's", async () => {
    const { client } = await connected();
    fake.errors.ping = { type: "error", code: "rate_limited", message: "Too many" };
    await assert.rejects(client.ping(), /Too many/);
  });

  test("an error nobody asked for is an event", async () => {
    const { errors } = await connected();
    fake.push({ type: "error", code: "session_taken_over", message: "elsewhere" });
    await errors.until((values) => values.length);
    assert.equal(errors.values[0].code, "session_taken_over");
  });

  test("no answer is a timeout", async () => {
    const { client } = await connected({ requestTimeoutMs: 50 });
    fake.muteActions.add("ping");
    await assert.rejects(client.ping(), (error) => {
      assert.ok(error instanceof RequestTimeout);
      return /ping had no answer within 50 ms/.test(error.message);
    });
    assert.equal(client.state, "connected");
  });

  test("a request waits for the reconnect", async () => {
    const { client, states } = await connected();
    fake.refuseStatus = 503;
    fake.drop();
    await states.until(() => states.count("reconnecting"));
    const asking = client.subscribe("SBIN");
    const connects = fake.connects;
    await fake.until(() => fake.connects > connects + 1);
    fake.refuseStatus = 0;
    assert.deepEqual((await asking).subscribed, ["SBIN"]);
  });

  test("a request without an answer is repeated", async () => {
    const { client } = await connected();
    fake.muteActions.add("subscribe");
    const asking = client.subscribe("SBIN");
    await fake.until(() => fake.actions.includes("subscribe"));
    fake.muteActions.clear();
    fake.drop();
    assert.deepEqual((await asking).subscribed, ["SBIN"]);
    assert.equal(fake.actions.filter((action) => action === "subscribe").length, 2);
  });

  test("a request offline times out", async () => {
    const { client } = await connected({ requestTimeoutMs: 100 });
    fake.refuseStatus = 503;
    fake.drop();
    await assert.rejects(client.ping(), /the client was reconnecting/);
  });

  test("a request of a closed client fails at once", async () => {
    await assert.rejects(clientOf().ping(), /not connected/);
    const { client } = await connected();
    fake.muteActions.add("ping");
    const asking = client.ping();
    await fake.until(() => fake.actions.includes("ping"));
    client.close();
    await assert.rejects(asking, /closed by close\(\)/);
  });
});

describe("the session", () => {
  test("a listed session is not subscribed again", async () => {
    const { client, again } = await connected();
    await client.subscribe(["SBIN", "TCS"]);
    await listing(client);
    fake.drop();
    await again(2);
    assert.equal(fake.actions.filter((action) => action === "subscribe").length, 1);
  });

  test("only what the server lost is subscribed again", async () => {
    const { client, again } = await connected();
    await client.subscribe(["SBIN", "TCS", "INFY"]);
    await listing(client);
    fake.held.set("me", ["TCS"]);
    fake.drop();
    await again(2);
    assert.deepEqual(fake.requests.at(-2).stocks, ["NSE:SBIN", "NSE:INFY"]);
  });

  test("what was subscribed before this program began is restored too", async () => {
    fake.held.set("me", ["SBIN"]);
    const { again } = await connected();
    fake.held.delete("me");
    fake.drop();
    await again(2);
    assert.deepEqual(fake.held.get("me"), ["SBIN"]);
  });

  test("what was unsubscribed under another name stays so", async () => {
    const { client, again } = await connected();
    await client.subscribe(["SBIN", "TCS"]);
    await client.unsubscribe("3045");
    for (const times of [2, 3]) {
      fake.drop();
      await again(times);
      assert.deepEqual(fake.held.get("me"), ["TCS"]);
      fake.held.delete("me");
    }
  });

  test("changes not yet listed survive a server that lost all", async () => {
    const { client, again } = await connected();
    await client.subscribe(["SBIN", "TCS"]);
    await listing(client);
    await client.unsubscribe("SBIN");
    await client.subscribe("INFY");
    fake.held.delete("me");
    fake.drop();
    await again(2);
    assert.deepEqual(fake.held.get("me").sort(), ["INFY", "TCS"]);
  });

  test("what cannot be restored is told", async () => {
    fake.held.set("me", ["SBIN"]);
    const { errors, again } = await connected();
    fake.held.delete("me");
    fake.errors.subscribe = { type: "error", code: "store_unavailable", message: "not saved" };
    fake.drop();
    await again(2);
    assert.deepEqual(errors.values.map((error) => error.code), [1006, "store_unavailable"]);
  });
});

describe("listeners and streams", () => {
  test("listeners are called once after many reconnects", async () => {
    const { client, quotes, again } = await connected();
    const stream = client.quotes();
    for (const n of [1, 2, 3, 4, 5]) {
      fake.drop();
      await again(n + 1);
      fake.push(marketData("SBIN", n));
      assert.equal((await stream.next()).value.ltp, n);
    }
    assert.deepEqual(quotes.values.map((quote) => quote.ltp), [1, 2, 3, 4, 5]);
  });

  test("a reconnect repeats no quote but tells a new one", async () => {
    const { quotes, again } = await connected();
    fake.push(marketData("SBIN", 1, "first"));
    await quotes.until((values) => values.length);
    fake.lastQuotes = [marketData("SBIN", 1, "first"), marketData("TCS", 2, "second")];
    fake.drop();
    await again(2);
    const told = quotes.values.map((quote) => [quote.symbol, quote.isSnapshot]);
    assert.deepEqual(told, [["SBIN", false], ["TCS", true]]);
  });

  test("a removed listener is not called", async () => {
    const { client, quotes } = await connected();
    const removed = new Heard();
    const remove = client.on("quote", removed.add);
    remove();
    fake.push(marketData("SBIN", 1));
    await quotes.until((values) => values.length);
    assert.deepEqual(removed.values, []);
  });

  test("status events are answers and pushes", async () => {
    const { client } = await connected();
    const statuses = new Heard();
    client.on("status", statuses.add);
    await client.marketStatus();
    fake.push({ type: "market_status", data: { market_open: true } });
    await statuses.until((values) => values.length === 2);
    assert.deepEqual(statuses.values.map((status) => status.market_open), [false, true]);
  });

  for (const text of ["{", "null", '{"type":"market_data"}']) {
    test(`${text} is told and survived`, async () => {
      const { client, errors } = await connected();
      fake.push(text);
      await errors.until((values) => values.length);
      assert.match(errors.values[0].message, /was not understood/);
      await client.ping();
    });
  }

  test("streams end with the client", async () => {
    const { client } = await connected();
    const stream = client.quotes();
    const reading = stream.next();
    client.close();
    assert.equal((await reading).done, true);
    assert.equal((await client.quotes().next()).done, true);
  });
});

describe("how it ends", () => {
  for (const code of [1008, 1009, 4401, 4403]) {
    test(`${code} ends the client`, async () => {
      const { client, states, errors } = await connected();
      const reading = client.quotes().next();
      fake.close(code, "because");
      await assert.rejects(reading, ConnectionClosed);
      await states.until(() => states.count("closed"));
      assert.deepEqual([errors.values[0].code, errors.values[0].reason], [code, "because"]);
      await assert.rejects(client.ping(), /because/);
      assert.equal(fake.connects, 1);
    });
  }

  test("a session taken over is not taken back", async () => {
    const { states, errors } = await connected();
    fake.close(4409, "session taken over");
    await states.until(() => states.count("closed"));
    assert.ok(errors.values[0] instanceof TakenOver);
    assert.equal(fake.connects, 1);
  });

  for (const code of [1011, 4408, 3000]) {
    test(`${code} brings it back`, async () => {
      const { again } = await connected();
      fake.close(code);
      await again(2);
    });
  }

  test("closing sends 1000", async () => {
    const { client } = await connected();
    client.close();
    client.close();
    await fake.until(() => fake.lastCloseCode !== undefined);
    assert.equal(fake.lastCloseCode, 1000);
  });
});

describe("silence", () => {
  for (const marketOpen of [true, false]) {
    test(`a mute server is replaced, market open: ${marketOpen}`, async () => {
      fake.marketOpen = marketOpen;
      const { states, errors, again } = await connected({ silenceMs: 50, requestTimeoutMs: 200 });
      fake.isMute = true;
      await states.until(() => states.count("reconnecting"));
      fake.isMute = false;
      await again(2);
      assert.match(errors.values[0].message, /had no answer/);
      assert.equal(fake.actions.includes("market_status"), marketOpen);
    });
  }

  test("a server that answers is kept though no data comes", async () => {
    fake.marketOpen = true;
    const { client, states } = await connected({ silenceMs: 20 });
    const statuses = new Heard();
    client.on("status", statuses.add);
    await statuses.until((values) => values.length >= 2);
    assert.equal(fake.connects, 1);
    assert.deepEqual(states.values, ["connecting", "connected"]);
  });
});

describe("the guide's own class", () => {
  test("works without awaiting", async () => {
    const client = new OdinStreamerClient("trading_app_123", { ...QUICK, url: fake.url });
    clients.push(client);
    const seen = new Heard();
    client.onMarketData = seen.add;
    client.connect();
    client.subscribeSymbols(["SBIN", "RELIANCE"]);
    client.subscribeTokens(["11536"]);
    client.subscribeMixed(["SBIN", "1594"]);
    client.unsubscribe(["2885"]);
    const listed = await client.getSubscriptions();
    assert.deepEqual(listed.map((stock) => stock.symbol), ["SBIN", "TCS", "INFY"]);
    assert.deepEqual(fake.clientIds, ["trading_app_123"]);
    fake.push(marketData("SBIN", 812.5));
    await seen.until((values) => values.length);
    assert.equal(seen.values[0].data.ltp, 812.5);
  });

  test("what it rejects with harms no program that does not look", async () => {
    const client = new OdinStreamerClient("me", { ...QUICK, url: fake.url });
    clients.push(client);
    client.subscribeSymbols(["SBIN"]);
    client.connect();
    client.close();
    await new Promise(setImmediate);
  });
});
