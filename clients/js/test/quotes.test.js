import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeQuote } from "../src/messages.js";
import { QuoteStream } from "../src/quotes.js";
import { STOCKS, marketData } from "./fake-server.js";

const of = (symbol, ltp) => decodeQuote(marketData(symbol, ltp));
const streamOf = (...stocks) => new QuoteStream(stocks, () => {});

async function drain(stream) {
  stream.end(null);
  const seen = [];
  for await (const quote of stream) seen.push([quote.symbol, quote.ltp]);
  return seen;
}

test("a slow reader gets the newest of each stock", async () => {
  const stream = streamOf();
  for (const ltp of [1, 2, 3]) {
    stream.put(of("SBIN", ltp));
    stream.put(of("TCS", ltp * 10));
  }
  assert.deepEqual(await drain(stream), [["SBIN", 3], ["TCS", 30]]);
  assert.equal(stream.skipped, 4);
});

test("a busy stock does not starve the others", async () => {
  const stream = streamOf();
  stream.put(of("SBIN", 1));
  stream.put(of("TCS", 1));
  stream.put(of("SBIN", 2));
  assert.equal((await stream.next()).value.symbol, "SBIN");
  stream.put(of("SBIN", 3));
  assert.equal((await stream.next()).value.symbol, "TCS");
});

test("what waits is bounded by the number of stocks", async () => {
  const stream = streamOf();
  for (let n = 1; n < 2_000; n += 1) for (const symbol of Object.keys(STOCKS)) stream.put(of(symbol, n));
  assert.equal((await drain(stream)).length, Object.keys(STOCKS).length);
});

for (const name of ["SBIN", "sbin", "3045", "NSE:SBIN", "NSE:3045"]) {
  test(`a stream of ${name} takes only that stock`, async () => {
    const stream = streamOf(name);
    stream.put(of("TCS", 1));
    stream.put(of("SBIN", 2));
    assert.deepEqual(await drain(stream), [["SBIN", 2]]);
  });
}

test("an idle reader gets the next quote, and the one after it", async () => {
  const stream = streamOf();
  const reading = stream.next();
  stream.put(of("SBIN", 1));
  stream.put(of("SBIN", 2));
  assert.equal((await reading).value.ltp, 1);
  assert.equal((await stream.next()).value.ltp, 2);
});

test("the error comes after what waits", async () => {
  const stream = streamOf();
  stream.put(of("SBIN", 1));
  stream.end(new Error("over"));
  assert.equal((await stream.next()).value.ltp, 1);
  await assert.rejects(stream.next(), /over/);
});

test("an idle reader is told the end", async () => {
  const [fine, failed] = [streamOf(), streamOf()];
  const [first, second] = [fine.next(), failed.next()];
  fine.end(null);
  failed.end(new Error("over"));
  assert.deepEqual(await first, { value: undefined, done: true });
  await assert.rejects(second, /over/);
});

test("a loop that is left unregisters its stream", async () => {
  const left = [];
  const stream = new QuoteStream([], (ended) => left.push(ended));
  stream.put(of("SBIN", 1));
  for await (const quote of stream) {
    assert.equal(quote.symbol, "SBIN");
    break;
  }
  assert.deepEqual(left, [stream]);
});
