import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { isRefusal, reconnectDelayMs } from "../src/reconnect.js";

const { codes } = JSON.parse(
  readFileSync(new URL("../../vectors/close_codes.json", import.meta.url), "utf8"),
);
const delay = (code, failures, share) => reconnectDelayMs(code, failures, 500, 20_000, () => share);

for (const { code, comes_back, least_s, most_s } of codes) {
  test(`close code ${code} is followed`, () => {
    const bounds = comes_back ? [least_s * 1000, most_s * 1000] : [null, null];
    assert.deepEqual([delay(code, 0, 0), delay(code, 0, 1)], bounds);
  });
}

test("the delay doubles up to its bound, for ever", () => {
  const delays = [0, 1, 2, 3, 4, 5, 6, 100_000].map((failures) => delay(1006, failures, 1));
  assert.deepEqual(delays, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
});

test("jitter takes any share of the delay", () => assert.equal(delay(1006, 3, 0.25), 1_000));

test("a restart that fails again backs off further", () => assert.equal(delay(1012, 5, 1), 16_000));

test("statuses that a retry cannot cure", () => {
  assert.deepEqual([400, 403, 404, 426].map(isRefusal), [true, true, true, true]);
  assert.deepEqual([429, 500, 503, undefined].map(isRefusal), [false, false, false, false]);
});
