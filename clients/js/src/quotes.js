/**
 * Quotes for one reader that never falls behind: what waits is at most one quote per stock, the
 * newest, in the place of the one it replaced, so that a busy stock cannot starve others.
 *
 * @typedef {import("./odin-client.d.ts").Quote} Quote
 */

import { keyOf } from "./messages.js";

/** @implements {AsyncIterableIterator<Quote>} */
export class QuoteStream {
  /** Quotes replaced by a newer one of the same stock before they were read. */
  skipped = 0;
  /** @type {Map<string, Quote>} */ #waiting = new Map();
  /** @type {Set<string>} */ #stocks;
  /** @type {Array<{resolve: (r: IteratorResult<Quote>) => void, reject: (e: Error) => void}>} */
  #readers = [];
  /** @type {Error | null} */ #error = null;
  #isEnded = false;
  #onReturn;

  /** @param {string[]} stocks @param {(stream: QuoteStream) => void} onReturn */
  constructor(stocks, onReturn) {
    this.#stocks = new Set(stocks.map((stock) => stock.toUpperCase()));
    this.#onReturn = onReturn;
  }

  /** @param {Quote} quote */
  put(quote) {
    const { symbol, token, exchange } = quote;
    const names = [symbol.toUpperCase(), token];
    const isWanted = (/** @type {string} */ name) =>
      this.#stocks.has(name) || this.#stocks.has(`${exchange}:${name}`);
    if (this.#stocks.size && !names.some(isWanted)) return;
    const reader = this.#readers.shift();
    if (reader) {
      reader.resolve({ value: quote, done: false });
      return;
    }
    const key = keyOf(quote);
    if (this.#waiting.has(key)) this.skipped += 1;
    this.#waiting.set(key, quote);
  }

  /** Let the reader have what waits, then end, with the error if there is one.
   * @param {Error | null} error */
  end(error) {
    this.#isEnded = true;
    this.#error = error;
    for (const { resolve, reject } of this.#readers.splice(0)) {
      if (error) reject(error);
      else resolve({ value: undefined, done: true });
    }
  }

  /** @returns {Promise<IteratorResult<Quote>>} */
  async next() {
    for (const [key, quote] of this.#waiting) {
      this.#waiting.delete(key);
      return { value: quote, done: false };
    }
    if (this.#error) throw this.#error;
    if (this.#isEnded) return { value: undefined, done: true };
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }

  /** @returns {Promise<IteratorResult<Quote>>} */
  async return() {
    this.#onReturn(this);
    this.#waiting.clear();
    this.end(null);
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}
