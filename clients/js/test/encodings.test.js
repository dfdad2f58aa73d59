import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, test } from "node:test";
import { FORMATS, MessageReader } from "../src/encodings.js";
import { OdinError } from "../src/errors.js";
import { decodeQuote } from "../src/messages.js";
import { OdinClient } from "../src/odin-client.js";
import { FakeServer, marketData } from "./fake-server.js";
import { Heard } from "./heard.js";
import { randomOf } from "./random.js";

const FOLDER = new URL("../../vectors/encodings/", import.meta.url);
const VECTORS = readdirSync(FOLDER).map((file) => JSON.parse(readFileSync(new URL(file, FOLDER), "utf8")));
const vector = (name) => VECTORS.find((one) => one.name === name);

/** The frames of a vector as they arrive. */
const framesOf = ({ format, frames }) =>
  format.startsWith("json") ? frames : frames.map((hex) => Uint8Array.from(Buffer.from(hex, "hex")).buffer);
const naming = (instruments) => ({ type: "instruments", status: "success", data: { instruments } });

/** A reader that knows the instruments of the vector. */
function readerOf({ format, instruments }) {
  const reader = new MessageReader(format);
  if (instruments) reader.complete(naming(instruments));
  return reader;
}

describe("the shared messages", () => {
  test("cover every format and mode", () => {
    assert.deepEqual(new Set(VECTORS.map(({ format }) => format)), new Set(FORMATS));
    const modes = VECTORS.flatMap(({ messages }) => messages.map(({ mode }) => mode));
    assert.deepEqual(new Set(modes), new Set([undefined, "ltp", "full"]));
  });

  for (const one of VECTORS) {
    test(one.name, () => {
      const reader = readerOf(one);
      let whole;
      const messages = framesOf(one).map((frame) => {
        const message = reader.decode(frame);
        whole = reader.complete(message);
        return message;
      });
      assert.deepEqual(messages, one.messages);
      const last = one.messages.at(-1);
      const mode = last.mode ?? "quote";
      const sent = { sentMs: last.timestamp, isSnapshot: last.snapshot === true, mode };
      assert.deepEqual(decodeQuote(whole), { ...one.quote, ...sent });
    });
  }
});

describe("binary", () => {
  const live = vector("binary_live");

  /** The live quote's bytes with other values: [method of DataView, offset, value]. */
  function changed(...changes) {
    const [frame] = framesOf(live);
    const view = new DataView(frame);
    for (const [type, offset, value] of changes) view[`set${type}`](offset, value, true);
    return frame;
  }
  const decoded = (...changes) => readerOf(live).decode(changed(...changes)).data;

  for (const [epochNs, text] of [
    [1756971590198000000n, "2025-09-04T13:09:50.198000000+05:30"],
    [1756971590999999999n, "2025-09-04T13:09:50.999999999+05:30"],
    [1756971591000000001n, "2025-09-04T13:09:51.000000001+05:30"],
    [1756751400000000000n, "2025-09-02T00:00:00.000000000+05:30"],
    [-1n, "1970-01-01T05:29:59.999999999+05:30"],
    [-(2n ** 63n), "1677-09-21T05:42:43.145224192+05:30"],
    [2n ** 63n - 1n, "2262-04-12T05:17:16.854775807+05:30"],
  ]) {
    test(`${epochNs} is ${text}`, () => {
      assert.equal(decoded(["BigInt64", 32, epochNs]).last_updated, text);
    });
  }

  test("seconds follow each other in one reader", () => {
    const reader = readerOf(live);
    const read = (ns) => reader.decode(changed(["BigInt64", 32, ns])).data.last_updated.slice(17, 29);
    const instants = [1n, 999_999_999n, 1_000_000_000n, 5n, 2_000_000_000n];
    const texts = ["00.000000001", "00.999999999", "01.000000000", "00.000000005", "02.000000000"];
    assert.deepEqual(instants.map(read), texts);
  });

  test("a token has all its digits", () => {
    const token = String(2n ** 64n - 1n);
    const reader = new MessageReader("binary");
    reader.complete(naming([{ symbol: "BIG", token, exchange: "NCDEX", segment: "CO" }]));
    const frame = changed(["BigUint64", 8, 2n ** 64n - 1n], ["Uint8", 2, 4], ["Uint8", 3, 5]);
    const { data, ...message } = reader.decode(frame);
    assert.deepEqual([message.symbol, message.token, message.exchange], ["BIG", token, "NCDEX"]);
    assert.deepEqual([data.symbol, data.token, data.exchange], ["BIG", token, "NCDEX"]);
  });

  test("counts are numbers, the nearest beyond 2^53", () => {
    const data = decoded(["BigUint64", 40, 2n ** 53n - 1n], ["BigUint64", 48, 2n ** 64n - 1n]);
    assert.deepEqual([data.volume, data.avg_volume_5d], [Number.MAX_SAFE_INTEGER, 2 ** 64]);
  });

  for (const [decimals, price] of [[0, 136550], [2, 1365.5], [4, 13.655], [6, 0.13655], [8, 0.0013655]]) {
    test(`${decimals} decimals`, () => assert.equal(decoded(["Uint8", 4, decimals]).ltp, price));
  }

  for (const name of ["binary_ltp", "binary_full", "binary_full_without_depth"]) {
    test(`another length of ${name} is passed over`, () => {
      const [frame] = framesOf(vector(name));
      const reader = readerOf(vector(name));
      for (let size = 0; size < frame.byteLength; size += 1) {
        assert.equal(reader.decode(frame.slice(0, size)), null);
      }
      assert.throws(() => new MessageReader("binary").decode(frame), /which was not named before/);
    });
  }

  test("a last price has no change without a close to compare with", () => {
    const [frame] = framesOf(vector("binary_ltp"));
    new DataView(frame).setUint8(1, 0);
    const { data, snapshot } = readerOf(vector("binary_ltp")).decode(frame);
    assert.deepEqual([data.percent_change, snapshot], [0, undefined]);
  });

  test("a price may be below zero", () => assert.equal(decoded(["BigInt64", 56, -3763n]).ltp, -37.63));

  test("percent_change is 0 without a close to compare with", () => {
    const unknown = decoded(["Uint8", 1, 0]);
    assert.deepEqual([unknown.close, unknown.prev_close, unknown.percent_change], [null, null, 0]);
    const zero = decoded(["BigInt64", 88, 0n]);
    assert.deepEqual([zero.close, zero.percent_change], [0, 0]);
  });

  test("dates of any year with four digits, and no others", () => {
    const { week_52_high_date: high, week_52_low_date: low } = decoded(
      ["Int32", 112, -719_162],
      ["Int32", 116, 2_932_896],
    );
    assert.deepEqual([high, low], ["0001-01-01", "9999-12-31"]);
    for (const day of [-719_163, 2_932_897, 2 ** 31 - 1, -(2 ** 31)]) {
      assert.throws(() => decoded(["Int32", 116, day]), OdinError);
    }
    assert.equal(decoded(["Uint8", 1, 0], ["Int32", 116, 2 ** 31 - 1]).week_52_low_date, null);
  });

  test("flags and bytes that mean nothing yet are of no matter", () => {
    const plain = decoded();
    assert.deepEqual(decoded(["Uint8", 1, 0x38 | 0xc0], ["Uint8", 5, 1], ["Uint8", 7, 9]), plain);
  });

  test("other kinds and lengths are passed over", () => {
    const reader = readerOf(live);
    for (const kind of [0, 2, 255]) assert.equal(reader.decode(changed(["Uint8", 0, kind])), null);
    const longer = new Uint8Array(121);
    longer.set(new Uint8Array(changed()));
    assert.equal(reader.decode(longer.buffer), null);
    for (let size = 0; size < 120; size += 1) assert.equal(reader.decode(changed().slice(0, size)), null);
  });

  test("a stock that was not named is refused, whichever part differs", () => {
    assert.throws(() => new MessageReader("binary").decode(changed()), /token 2885, which was not named/);
    for (const change of [["Uint8", 2, 2], ["Uint8", 3, 2], ["BigUint64", 8, 2886n]]) {
      assert.throws(() => decoded(change), OdinError);
    }
  });

  test("a share and an index with one token are two", () => {
    const reader = new MessageReader("binary");
    const of = (symbol, segment) => ({ symbol, token: "2885", exchange: "NSE", segment });
    reader.complete(naming([of("SHARE", "CM")]));
    reader.complete(naming([of("AN INDEX", "INDEX"), of("OTHER", "OF A LATER SERVER")]));
    const symbols = [1, 2].map((code) => reader.decode(changed(["Uint8", 3, code])).symbol);
    assert.deepEqual(symbols, ["SHARE", "AN INDEX"]);
    assert.throws(() => reader.decode(changed(["Uint8", 3, 0])), OdinError);
  });
});

describe("deltas", () => {
  const deltaOf = (symbol, data) => ({ ...marketData(symbol), data, delta: true });

  test("a change of nothing is refused", () => {
    const reader = new MessageReader("json-delta");
    reader.complete(marketData("TCS", 1));
    assert.throws(() => reader.complete(deltaOf("SBIN", { ltp: 2 })), {
      name: "OdinError",
      message: "a change of SBIN without a quote before it",
    });
  });

  test("changes add up, and a whole quote replaces them", () => {
    const reader = new MessageReader("msgpack-delta");
    const whole = marketData("SBIN", 1);
    assert.deepEqual(reader.complete(whole), whole);
    reader.complete(deltaOf("SBIN", { ltp: 2, volume: 5 }));
    const { delta, ...second } = reader.complete(deltaOf("SBIN", { ltp: 3 }));
    assert.equal(delta, undefined);
    assert.deepEqual(second, { ...whole, data: { ...whole.data, ltp: 3, volume: 5 } });
    reader.complete(marketData("SBIN", 4));
    assert.equal("volume" in reader.complete(deltaOf("SBIN", { ltp: 5 })).data, false);
  });

  test("a share and an index with one token are two", () => {
    const reader = new MessageReader("json-delta");
    const of = (symbol, ltp) => ({ ...marketData("SBIN", ltp), symbol });
    [of("SHARE", 1), of("AN INDEX", 2)].forEach((message) => reader.complete(message));
    const changeOf = (symbol) => ({ ...deltaOf("SBIN", { volume: 9 }), symbol });
    assert.equal(reader.complete(changeOf("SHARE")).data.ltp, 1);
    assert.equal(reader.complete(changeOf("AN INDEX")).data.ltp, 2);
  });

  test("what a program does with its messages changes no later one", () => {
    const reader = new MessageReader("json-delta");
    reader.complete(marketData("SBIN", 1)).data.symbol = "MINE";
    reader.complete(deltaOf("SBIN", { volume: 9 })).data.ltp = NaN;
    const { data } = reader.complete(deltaOf("SBIN", { high: 2 }));
    assert.deepEqual([data.symbol, data.ltp, data.volume], ["SBIN", 1, 9]);
  });
});

describe("bytes that nobody meant", () => {
  /** Read it; true for a message, false where it was refused with the one error there is. */
  function survives(reader, payload) {
    try {
      const message = reader.decode(payload);
      if (message) reader.complete(message);
      return true;
    } catch (error) {
      assert.ok(error instanceof OdinError, error?.stack);
      return false;
    }
  }

  for (const one of VECTORS.filter(({ format }) => format !== "binary")) {
    test(`${one.name} is refused wherever it was cut`, () => {
      for (const frame of framesOf(one)) {
        const size = frame.length ?? frame.byteLength;
        for (let end = 0; end < size; end += 1) {
          assert.equal(survives(readerOf(one), frame.slice(0, end)), false, `${end} of ${size}`);
        }
      }
    });
  }

  for (const one of VECTORS.filter(({ format }) => !format.startsWith("json"))) {
    test(`${one.name} with some bytes changed`, () => {
      const random = randomOf(52);
      const frames = framesOf(one);
      const outcomes = new Set();
      for (let round = 0; round < 3_000; round += 1) {
        const bytes = new Uint8Array(frames[round % frames.length].slice(0));
        for (let n = 0; n <= random() * 4; n += 1) {
          bytes[Math.floor(random() * bytes.length)] = random() * 256;
        }
        outcomes.add(survives(readerOf(one), bytes.buffer));
      }
      assert.deepEqual([...outcomes].sort(), [false, true]);
    });
  }

  for (const format of FORMATS) {
    test(`random bytes as ${format}`, () => {
      const random = randomOf(53);
      const reader = new MessageReader(format);
      for (let round = 0; round < 3_000; round += 1) {
        const bytes = Uint8Array.from({ length: random() * 200 }, () => random() * 256);
        survives(reader, bytes.buffer);
        survives(reader, Buffer.from(bytes).toString("latin1"));
      }
      assert.ok(survives(reader, JSON.stringify(marketData("SBIN"))));
    });
  }

  for (const text of ["null", "5", '"market_data"', "true"]) {
    test(`${text} is no message`, () => {
      assert.throws(() => new MessageReader("json").decode(text), { name: "OdinError", message: /no object/ });
    });
  }
});

describe("over a connection", () => {
  let fake;
  let client;

  beforeEach(async () => (fake = await FakeServer.start()));
  afterEach(async () => {
    client.close();
    await fake.stop();
  });

  /** A client of the format, and what it tells, connected. */
  async function connected(options) {
    client = new OdinClient(fake.url, { clientId: "me", minDelayMs: 10, maxDelayMs: 20, ...options });
    const told = {};
    for (const type of ["quote", "message", "error", "state"]) client.on(type, (told[type] = new Heard()).add);
    await client.connect();
    return told;
  }

  /** Send what the vector's server would. */
  function push(one) {
    if (one.instruments) fake.push(naming(one.instruments));
    for (const frame of framesOf(one)) fake.push(typeof frame === "string" ? frame : new Uint8Array(frame));
  }

  test("the format is asked for, json without a wish, whatever the address says", async () => {
    await connected({});
    client.close();
    await connected({ format: "binary" });
    client.close();
    client = new OdinClient(`${fake.url}?format=binary&token=t`, { format: undefined });
    await client.connect();
    assert.deepEqual(fake.formats, ["json", "binary", "json"]);
  });

  for (const one of VECTORS) {
    test(`${one.name} is a quote and a message`, async () => {
      const { quote, message, error } = await connected({ format: one.format });
      const stream = client.quotes();
      push(one);
      await quote.until((quotes) => quotes.length === one.frames.length);
      const last = one.messages.at(-1);
      const mode = last.mode ?? "quote";
      const sent = { sentMs: last.timestamp, isSnapshot: last.snapshot === true, mode };
      assert.deepEqual(quote.values.at(-1), { ...one.quote, ...sent });
      assert.deepEqual((await stream.next()).value, quote.values.at(-1));
      await client.ping();
      const { symbol, token, exchange, ...unnamed } = one.quote;
      const { delta, ...whole } = { ...last, data: mode === "ltp" ? unnamed : one.quote };
      const told = message.values.filter(({ type }) => type === "market_data");
      assert.deepEqual(told.at(-1), whole);
      assert.deepEqual(error.values, []);
    });
  }

  for (const format of FORMATS) {
    test(`a server without formats may be asked for ${format}`, async () => {
      const { quote } = await connected({ format });
      assert.equal(client.welcome.format, undefined);
      fake.push(marketData("SBIN", 7));
      await quote.until((quotes) => quotes.length);
      assert.deepEqual(quote.values, [decodeQuote(marketData("SBIN", 7))]);
    });
  }

  for (const name of ["json_delta", "msgpack_delta", "binary_live"]) {
    test(`${name}: a new connection begins with nothing`, async () => {
      const one = vector(name);
      const { quote, error, state } = await connected({ format: one.format });
      push(one);
      await quote.until((quotes) => quotes.length === one.frames.length);
      fake.drop();
      await state.until(() => state.count("connected") === 2);
      push({ ...one, instruments: undefined, frames: one.frames.slice(-1) });
      await error.until((errors) => errors.length === 2);
      assert.match(error.values[1].message, /^a message was not understood: a (change|quote) of /);
      assert.equal(quote.values.length, one.frames.length);
      push(one);
      await quote.until((quotes) => quotes.length === 2 * one.frames.length);
      assert.deepEqual(quote.values.at(-1), quote.values[one.frames.length - 1]);
      assert.equal(error.values.length, 2);
    });
  }

  test("bytes of a later version are passed over in binary", async () => {
    const { error, message } = await connected({ format: "binary" });
    fake.push(Uint8Array.from([2, 0, 0]));
    await client.ping();
    assert.deepEqual(error.values, []);
    assert.equal(message.values.some((one) => one === null), false);
  });

  for (const format of ["json", "msgpack"]) {
    test(`bytes that are no ${format} are told and survived`, async () => {
      const { error } = await connected({ format });
      fake.push(Uint8Array.from([0xc1]));
      await error.until((errors) => errors.length);
      assert.match(error.values[0].message, /was not understood/);
      await client.ping();
    });
  }
});
