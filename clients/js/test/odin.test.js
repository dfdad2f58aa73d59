/** The client against the real server, in a process of its own. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { after, afterEach, before, describe, test } from "node:test";
import { FORMATS } from "../src/encodings.js";
import { OdinClient, RequestError, TakenOver } from "../src/odin-client.js";
import { Heard } from "./heard.js";
import { RealServer, missing } from "./real-server.js";

const skip = missing();

describe("against the odin server", { skip }, () => {
  let odin;
  const clients = [];

  before(async () => (odin = await RealServer.start()));
  after(() => odin.stop());
  afterEach(() => clients.splice(0).forEach((client) => client.close()));

  let lastId = 0;
  async function connected(clientId = `test_${(lastId += 1)}`, options = {}) {
    const quick = { minDelayMs: 10, maxDelayMs: 50, ...options };
    const client = new OdinClient(odin.url, { clientId, ...quick });
    clients.push(client);
    const [states, errors] = [new Heard(), new Heard()];
    client.on("state", states.add);
    client.on("error", errors.add);
    await client.connect();
    return { client, states, errors };
  }

  test("quotes arrive by stream and by event", async () => {
    const { client } = await connected();
    const heard = new Heard();
    client.on("quote", heard.add);
    const stream = client.quotes();
    const result = await client.subscribe(["SBIN", 2885]);
    assert.deepEqual(result.subscribed, ["SBIN", "RELIANCE (NSE)"]);
    assert.deepEqual([result.failed, result.totalSubscribed], [[], 2]);
    const seen = new Set();
    for await (const quote of stream) {
      assert.ok(quote.low <= quote.ltp && quote.ltp <= quote.high);
      assert.equal(quote.exchange, "NSE");
      if (seen.add(quote.symbol).size === 2) break;
    }
    await heard.until((quotes) => new Set(quotes.map((quote) => quote.token)).size === 2);
  });

  for (const mode of ["ltp", "quote", "full"]) {
    test(`every format brings the same quotes in the ${mode} mode`, () => sameQuotes(mode));
  }

  async function sameQuotes(mode) {
    const trouble = [];
    const perTick = new Map();
    const complete = new Heard();
    for (const format of FORMATS) {
      const { client, errors } = await connected(`${mode}_${format}`, { format });
      trouble.push(errors);
      assert.equal(client.welcome.format, format);
      client.on("quote", (quote) => {
        if (quote.isSnapshot) return; // each was sent at a time of its own
        const tick = `${quote.symbol} ${quote.timestamp}`;
        perTick.set(tick, [...(perTick.get(tick) ?? []), quote]);
        if (perTick.get(tick).length === FORMATS.length) complete.add(tick);
      });
      // ADANIENT and the index BANKNIFTY share the token 25.
      const stocks = ["SBIN", "RELIANCE", "TCS", "INFY", "ITC", "NIFTY 50", "ADANIENT", "BANKNIFTY"];
      assert.deepEqual((await client.subscribe(stocks, mode)).failed, []);
    }
    await complete.until((ticks) => ticks.length >= 30);
    for (const tick of complete.values) {
      const [json, ...others] = perTick.get(tick);
      for (const quote of others) assert.deepEqual(quote, json);
      assert.deepEqual([json.mode, json.volume === undefined], [mode, mode === "ltp"]);
      assert.equal(json.depth !== undefined, mode === "full" && json.volume > 0);
    }
    assert.deepEqual(trouble.flatMap((errors) => errors.values), []);
  }

  test("what failed is explained", async () => {
    const { client } = await connected();
    const partial = await client.subscribe(["SBIN", "RELIANC", "999999999"]);
    assert.deepEqual(partial.failed.map(({ stock, code }) => [stock, code]), [
      ["RELIANC", "unknown_symbol"],
      ["999999999", "unknown_token"],
    ]);
    assert.ok(partial.failed[0].suggestions.includes("RELIANCE"));
    const nothing = await client.subscribe("NO_SUCH_STOCK");
    assert.deepEqual([nothing.subscribed, nothing.totalSubscribed], [[], 1]);
    assert.deepEqual((await client.subscribe("3045")).alreadySubscribed, ["SBIN (NSE)"]);
    await assert.rejects(client.subscribe([]), (error) => {
      assert.ok(error instanceof RequestError);
      return error.message === "No stocks provided for subscription";
    });
  });

  test("every action is answered", async () => {
    const { client } = await connected("every_action");
    assert.equal(client.welcome.client_id, "every_action");
    assert.equal(client.welcome.simulated, true);
    await client.subscribe(["SBIN", "RELIANCE", "TCS"]);
    const gone = await client.unsubscribe(["2885", "INFY"]);
    assert.deepEqual([gone.totalSubscribed, gone.failed[0].code], [2, "not_subscribed"]);
    const listed = await client.subscriptions();
    assert.deepEqual(listed.map((stock) => stock.symbol), ["SBIN", "TCS"]);
    assert.deepEqual(listed[0], { symbol: "SBIN", token: "3045", exchange: "NSE", mode: "quote" });
    const status = await client.marketStatus();
    assert.deepEqual([status.market_open, status.simulated], [true, true]);
    assert.ok((await client.ping()) < 5_000);
    await client.quotes("SBIN").next();
    const snapshot = await client.snapshot(["SBIN", "NO_SUCH_STOCK"]);
    assert.equal(snapshot.quotes[0].symbol, "SBIN");
    assert.equal(snapshot.failed[0].stock, "NO_SUCH_STOCK");
  });

  test("the newest connection has the session", async () => {
    const first = await connected("shared");
    await first.client.subscribe("SBIN");
    const second = await connected("shared");
    await first.states.until(() => first.states.count("closed"));
    assert.deepEqual(first.errors.values.map((e) => e.code), ["session_taken_over", 4409]);
    assert.ok(first.errors.values[1] instanceof TakenOver);
    assert.equal((await second.client.quotes().next()).value.symbol, "SBIN");
    assert.equal(second.client.state, "connected");
  });

  test("a killed server comes back with everything", async () => {
    const { client, states } = await connected();
    await client.subscribe(["SBIN", "TCS"]);
    const stream = client.quotes();
    await stream.next();
    await odin.kill();
    await states.until(() => states.count("reconnecting"));
    const asking = client.subscriptions();
    await odin.start();
    assert.deepEqual((await asking).map((stock) => stock.symbol), ["SBIN", "TCS"]);
    assert.equal(client.welcome.subscribed_stocks, 2);
    assert.equal((await stream.next()).done, false);
  });

  test("a frozen server is noticed by its silence", async () => {
    const impatient = { silenceMs: 300, requestTimeoutMs: 1_000 };
    const { client, states } = await connected("frozen", impatient);
    await client.subscribe("SBIN");
    odin.freeze();
    await states.until(() => states.count("reconnecting"));
    odin.thaw();
    await states.until(() => states.count("connected") === 2);
    assert.equal((await client.subscriptions())[0].symbol, "SBIN");
  });

  test("a server that lost its database is told again", async () => {
    const { client, states } = await connected();
    // ADANIENT and the index BANKNIFTY share the token 25.
    await client.subscribe(["SBIN", "TCS", "BANKNIFTY"]);
    await client.unsubscribe("11536");
    await odin.kill();
    odin.database += ".other";
    await odin.start();
    await states.until(() => states.count("connected") === 2);
    assert.equal(client.welcome.subscribed_stocks, 0);
    const listed = await client.subscriptions();
    assert.deepEqual(listed.map((stock) => stock.symbol).sort(), ["BANKNIFTY", "SBIN"]);
    assert.equal((await client.quotes("BANKNIFTY").next()).value.symbol, "BANKNIFTY");
  });

  test("the README's example runs", async () => {
    const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
    const code = /```js\n(.*?)```/s.exec(readme)[1];
    assert.ok(code.includes("ws://localhost:8080"));
    const child = spawn(process.execPath, ["--input-type=module"], {
      cwd: new URL("..", import.meta.url),
    });
    child.stdin.end(code.replace("ws://localhost:8080", odin.url));
    const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
    assert.equal(err, "");
    const [first, second] = out.trim().split("\n");
    assert.equal(first, "subscribed SBIN, RELIANCE (NSE) failed NO_SUCH_STOCK");
    assert.match(second, /^(SBIN|RELIANCE): [\d.]+ \(-?[\d.]+%\)$/);
  });
});
