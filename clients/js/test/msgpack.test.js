/** The reader against a writer of others, and against bytes that nobody would write. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { ExtData, encode } from "@msgpack/msgpack";
import { decodeMsgpack } from "../src/msgpack.js";

const bytes = (...values) => new Uint8Array(values).buffer;
const repeated = (byte, times) => new Uint8Array(times).fill(byte).buffer;
const written = (value, options) => encode(value, options).slice().buffer;
const refused = (buffer, message) =>
  assert.throws(() => decodeMsgpack(buffer), { name: "OdinError", message });

const numbers = [0, 0.5, -0.25, 1e300, 1365.55, Infinity, -Infinity, NaN];
for (const bits of [5, 7, 8, 15, 16, 31, 32, 53]) {
  for (const near of [-1, 0, 1]) numbers.push(2 ** bits + near, -(2 ** bits) + near);
}
const texts = [0, 1, 31, 32, 255, 256, 65_535, 65_536].map((size) => "x".repeat(size));
const lists = [0, 1, 15, 16, 65_535, 65_536].map((size) => Array.from({ length: size }, (_, i) => i));
const maps = lists.map((list) => Object.fromEntries(list.map((i) => [`key ${i}`, i])));
const bins = [0, 255, 256, 65_536].map((size) => new Uint8Array(size).fill(7));

describe("what another library writes", () => {
  for (const [kind, values] of Object.entries({
    numbers,
    texts: [...texts, "₹ 1,365.50 एसबीआई 🚀", "\uFEFFmarked", "\0"],
    lists,
    maps,
    bins,
    others: [null, true, false, { a: [{ b: [null, { c: {} }] }] }, [["constructor", { toString: 1 }]]],
  })) {
    test(kind, () => values.forEach((value) => assert.deepEqual(decodeMsgpack(written(value)), value)));
  }

  test("single precision", () => {
    for (const value of [0.5, -1365.5]) {
      assert.equal(decodeMsgpack(written(value, { forceFloat32: true })), value);
    }
  });

  test("64 bits are what JSON makes of them", () => {
    for (const value of [0n, 2n ** 53n + 1n, 2n ** 64n - 1n, -1n, -(2n ** 53n) - 3n, -(2n ** 63n)]) {
      const buffer = written(value, { useBigInt64: true });
      assert.equal(decodeMsgpack(buffer), JSON.parse(String(value)));
    }
  });
});

describe("what is refused", () => {
  const whole = { list: [1, 300, 70_000, 2 ** 40, -200, 1.5], map: { text: "é", none: null }, bin: bins[1] };

  test("every message that was cut short", () => {
    const buffer = written(whole);
    for (let size = 0; size < buffer.byteLength; size += 1) refused(buffer.slice(0, size), /cut short/);
  });

  test("lengths beyond the end, at once", () => {
    for (const tag of [0xc6, 0xdb, 0xdd, 0xdf]) refused(bytes(tag, 255, 255, 255, 255), /cut short/);
  });

  test("bytes after the end", () => refused(bytes(0xc0, 0xc0), /after its end/));

  test("ext, timestamps and what was never given out", () => {
    refused(written(new ExtData(5, new Uint8Array(3))), /unknown type 0xc7/);
    refused(written(new Date(0)), /unknown type 0xd6/);
    refused(bytes(0xc1), /unknown type 0xc1/);
  });

  test("texts that are not UTF-8", () => refused(bytes(0xa2, 0xc3, 0x28), /not UTF-8/));

  test("keys that are no text, or would set a prototype", () => {
    refused(bytes(0x81, 0x01, 0x01), /key/);
    refused(written(JSON.parse('{"__proto__": {"isAdmin": true}}')), /key/);
  });

  test("nesting without end", () => {
    assert.deepEqual(decodeMsgpack(bytes(...Array(99).fill(0x91), 0x90)).flat(Infinity), []);
    for (const tag of [0x91, 0x81]) refused(repeated(tag, 1_000_000), /nested|key/);
  });
});
