/** The program as a user runs it, against the real server. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { RealServer, missing } from "../../js/test/real-server.js";
import { lineOf, screenOf } from "../table.js";

const WATCH = fileURLToPath(new URL("../watch.js", import.meta.url));
const run = (...args) => spawn(process.execPath, [WATCH, ...args]);
const QUOTE = {
  symbol: "RELIANCE",
  exchange: "NSE",
  ltp: 1365.5,
  percent_change: -0.5172665015299366,
  day_low: 1360.3,
  day_high: 1374,
  volume: 8053013,
  timestamp: 1756971590198,
};

test("a line says when, what and how much, in Indian time", () => {
  assert.equal(lineOf(QUOTE), "13:09:50  RELIANCE  1365.50  -0.52 %");
});

test("a screen has a row per stock, and colours only where wanted", () => {
  const about = { state: "connected", market: "market open" };
  const plain = screenOf([QUOTE, { ...QUOTE, percent_change: null }], { ...about, hasColor: false });
  assert.equal(plain.trimEnd().split("\n").length, 5);
  assert.match(plain, /RELIANCE NSE +1,365\.50 +-0\.52 % +1,360\.30 +1,374\.00 +80,53,013 +13:09:50/);
  assert.ok(!plain.includes("\x1b"));
  const colored = screenOf([QUOTE], { ...about, hasColor: true });
  assert.equal(colored.replace(/\x1b\[\d+m/g, ""), screenOf([QUOTE], { ...about, hasColor: false }));
  assert.ok(colored.includes("\x1b[31m"));
});

test("without stocks it says how it is used", async () => {
  const child = run();
  const [error] = await Promise.all([text(child.stderr), once(child, "exit")]);
  assert.match(error, /^usage: node watch\.js STOCK/);
  assert.equal(child.exitCode, 1);
});

test("Ctrl-C ends it while it waits for a server", async () => {
  const child = run("SBIN", "--url", "ws://127.0.0.1:9");
  const exit = once(child, "exit");
  await once(child.stderr, "data");
  child.kill("SIGINT");
  assert.deepEqual(await exit, [0, null]);
});

describe("against the odin server", { skip: missing() }, () => {
  let odin;
  before(async () => (odin = await RealServer.start()));
  after(() => odin.stop());

  test("it prints quotes of all stocks until it is told to stop", async () => {
    const child = run("SBIN", "2885", "TCS", "--url", odin.url, "--client-id", "watch_test");
    const seen = new Set();
    for await (const line of createInterface({ input: child.stdout })) {
      const [, symbol] = /^\d\d:\d\d:\d\d {2}(\S+) {2}\d+\.\d\d {2}[+-]?\d+\.\d\d %$/.exec(line) ?? [];
      assert.ok(symbol, line);
      if (seen.add(symbol).size === 3) break;
    }
    assert.deepEqual([...seen].sort(), ["RELIANCE", "SBIN", "TCS"]);
    const exit = once(child, "exit");
    child.kill("SIGINT");
    assert.deepEqual(await exit, [0, null]);
  });

  test("it ends quietly when nobody reads its pipe any more", async () => {
    const child = run("SBIN", "2885", "--url", odin.url);
    const exit = once(child, "exit");
    await once(child.stdout, "data");
    child.stdout.destroy();
    const [error] = await Promise.all([text(child.stderr), exit]);
    assert.deepEqual([error, child.exitCode], ["", 0]);
  });

  test("it says what was not found, and ends when nothing was", async () => {
    const child = run("RELIANC", "--url", odin.url);
    const [error] = await Promise.all([text(child.stderr), once(child, "exit")]);
    assert.match(error, /^No instrument is called RELIANC; near it are .*RELIANCE/);
    assert.equal(child.exitCode, 1);
  });

  test("it goes on after the server was away", async () => {
    const child = run("SBIN", "--url", odin.url, "--client-id", "away");
    const exit = once(child, "exit");
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    await lines.next();
    const complaint = once(child.stderr, "data");
    await odin.kill();
    assert.match(String(await complaint), /the connection was closed: 1006/);
    await odin.start();
    await lines.next();
    child.kill("SIGINT");
    await exit;
  });
});
