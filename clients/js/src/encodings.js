/**
 * What arrives on a connection, in any of the encodings of docs/encodings.md, as the messages that it
 * says, with whole quotes. Pure: values in, values out.
 *
 * @typedef {import("./odin-client.d.ts").Format} Format
 * @typedef {import("./odin-client.d.ts").Json} Json
 */

import { OdinError } from "./errors.js";
import { keyOf } from "./messages.js";
import { decodeMsgpack } from "./msgpack.js";

/** @type {readonly Format[]} */
export const FORMATS = ["json", "json-delta", "msgpack", "msgpack-delta", "binary"];

const QUOTE = 1;
const LAST_PRICE = 2;
const FULL = 3;
const QUOTE_BYTES = 120;
const LAST_PRICE_BYTES = 48;
const DETAIL_BYTES = 40;
const LEVEL_BYTES = 24;
/** @type {Record<string, number>} */
const EXCHANGE_CODES = { NSE: 1, BSE: 2, MCX: 3, NCDEX: 4 };
/** @type {Record<string, number>} */
const SEGMENT_CODES = { CM: 1, INDEX: 2, FO: 3, CD: 4, CO: 5 };
const IS_SNAPSHOT = 0x01;
const IS_NEW_HIGH = 0x02;
const IS_NEW_LOW = 0x04;
const HAS_CLOSE = 0x08;
const HAS_YEAR = 0x10;
const HAS_AVERAGE = 0x20;
const HAS_AVG_PRICE = 0x01;
const HAS_TOTAL_BUY = 0x02;
const HAS_TOTAL_SELL = 0x04;
const HAS_OI = 0x08;
const HAS_DEPTH = 0x10;

const NS_PER_S = 1_000_000_000n;
const MS_PER_DAY = 86_400_000;
const INDIA_OFFSET_S = 19_800;
/** 0001-01-01 and 9999-12-31. */
const [FIRST_DAY, LAST_DAY] = [-719_162, 2_932_896];

/** Reads the messages of one connection, in their order. */
export class MessageReader {
  #format;
  /** The data of each stock's last quote. @type {Map<string, Json>} */ #held = new Map();
  /** The symbols and exchanges of the instruments messages. @type {Map<string, Json>} */
  #stocks = new Map();
  #clock = new IndianClock();

  /** @param {Format} format */
  constructor(format) {
    this.#format = format;
  }

  /**
   * What one WebSocket message says, as JSON would say it; null for one to pass over. Throws
   * OdinError for what is not understood.
   * @param {string | ArrayBuffer} payload
   * @returns {Json | null}
   */
  decode(payload) {
    if (typeof payload === "string") return objectOf(parse(payload));
    if (this.#format === "binary") return this.#decodeBinary(new DataView(payload));
    if (this.#format.startsWith("msgpack")) return objectOf(decodeMsgpack(payload));
    throw new OdinError(`a binary message in the format ${this.#format}`);
  }

  /**
   * The message with a whole quote, where it is one of what changed; others as they are. To be
   * called with every decoded message. Throws OdinError for a change of nothing.
   * @param {Json} message
   * @returns {Json}
   */
  complete(message) {
    if (message.type === "instruments") {
      for (const { symbol, token, exchange, segment } of message.data?.instruments ?? []) {
        const codes = `${EXCHANGE_CODES[exchange]},${SEGMENT_CODES[segment]}`;
        this.#stocks.set(`${codes}:${token}`, { symbol, exchange });
      }
    }
    if (message.type !== "market_data") return message;
    const key = keyOf(/** @type {any} */ (message));
    let whole = message;
    if (message.delta) {
      const held = this.#held.get(key);
      if (!held) throw new OdinError(`a change of ${message.symbol} without a quote before it`);
      const { delta, ...rest } = message;
      whole = { ...rest, data: { ...held, ...message.data } };
    }
    // A copy, because a program may do with its message what it likes.
    if (this.#format.endsWith("-delta")) this.#held.set(key, { ...whole.data });
    return whole;
  }

  /** @param {DataView} view @returns {Json | null} */
  #decodeBinary(view) {
    const length = view.byteLength;
    const kind = length ? view.getUint8(0) : 0;
    if (kind === QUOTE && length === QUOTE_BYTES) return this.#decodeQuote(view);
    if (kind === LAST_PRICE && length === LAST_PRICE_BYTES) return this.#decodeLastPrice(view);
    if (kind !== FULL || length < QUOTE_BYTES + DETAIL_BYTES) return null;
    const levels = view.getUint8(QUOTE_BYTES + 1) + view.getUint8(QUOTE_BYTES + 2);
    if (length !== QUOTE_BYTES + DETAIL_BYTES + levels * LEVEL_BYTES) return null;
    const message = this.#decodeQuote(view);
    Object.assign(message.data, detailOf(view));
    message.mode = "full";
    return message;
  }

  /** The stock that bytes 2 to 15 mean. @param {DataView} view */
  #stockOf(view) {
    const codes = `${view.getUint8(2)},${view.getUint8(3)}`;
    const token = view.getBigUint64(8, true).toString();
    const stock = this.#stocks.get(`${codes}:${token}`);
    if (!stock) throw new OdinError(`a quote of the token ${token}, which was not named before`);
    return { symbol: stock.symbol, token, exchange: stock.exchange };
  }

  /** @param {DataView} view @returns {Json} */
  #decodeLastPrice(view) {
    const { symbol, token, exchange } = this.#stockOf(view);
    const flags = view.getUint8(1);
    const unit = 10 ** view.getUint8(4);
    const ltp = Number(view.getBigInt64(32, true)) / unit;
    const close = flags & HAS_CLOSE ? Number(view.getBigInt64(40, true)) / unit : 0;
    const percent_change = close ? ((ltp - close) / close) * 100 : 0;
    const data = { ltp, percent_change, timestamp: Number(view.getBigInt64(24, true)) };
    const timestamp = Number(view.getBigInt64(16, true));
    /** @type {Json} */
    const message = { type: "market_data", symbol, token, exchange, data, timestamp };
    if (flags & IS_SNAPSHOT) message.snapshot = true;
    message.mode = "ltp";
    return message;
  }

  /** @param {DataView} view @returns {Json} */
  #decodeQuote(view) {
    const { symbol, token, exchange } = this.#stockOf(view);
    const flags = view.getUint8(1);
    const unit = 10 ** view.getUint8(4);
    const signed = (/** @type {number} */ offset) => Number(view.getBigInt64(offset, true));
    const unsigned = (/** @type {number} */ offset) => Number(view.getBigUint64(offset, true));
    const price = (/** @type {number} */ offset) => signed(offset) / unit;
    const date = (/** @type {number} */ offset) => isoDate(view.getInt32(offset, true));
    const [ltp, high, low] = [price(56), price(72), price(80)];
    const close = flags & HAS_CLOSE ? price(88) : null;
    const hasYear = (flags & HAS_YEAR) !== 0;
    // Without ...spread: an object that begins with one took ten times as long to make.
    const data = {
      symbol,
      token,
      exchange,
      ltp,
      open: price(64),
      high,
      low,
      close,
      prev_close: close,
      volume: unsigned(40),
      percent_change: close ? ((ltp - close) / close) * 100 : 0,
      week_52_high: hasYear ? price(96) : null,
      week_52_low: hasYear ? price(104) : null,
      week_52_high_date: hasYear ? date(112) : null,
      week_52_low_date: hasYear ? date(116) : null,
      day_high: high,
      day_low: low,
      avg_volume_5d: flags & HAS_AVERAGE ? unsigned(48) : null,
      timestamp: signed(24),
      last_updated: this.#clock.textOf(view.getBigInt64(32, true)),
      is_new_week_52_high: (flags & IS_NEW_HIGH) !== 0,
      is_new_week_52_low: (flags & IS_NEW_LOW) !== 0,
    };
    /** @type {Json} */
    const message = { type: "market_data", symbol, token, exchange, data, timestamp: signed(16) };
    if (flags & IS_SNAPSHOT) message.snapshot = true;
    return message;
  }
}

/** What follows the quote in a full one. @param {DataView} view */
function detailOf(view) {
  const flags = view.getUint8(QUOTE_BYTES);
  const buyCount = view.getUint8(QUOTE_BYTES + 1);
  const unit = 10 ** view.getUint8(4);
  const unsigned = (/** @type {number} */ offset) => Number(view.getBigUint64(offset, true));
  /** @type {Json} */
  const detail = {};
  if (flags & HAS_AVG_PRICE) detail.avg_price = Number(view.getBigInt64(128, true)) / unit;
  if (flags & HAS_TOTAL_BUY) detail.total_buy_qty = unsigned(136);
  if (flags & HAS_TOTAL_SELL) detail.total_sell_qty = unsigned(144);
  if (flags & HAS_OI) detail.oi = unsigned(152);
  if (flags & HAS_DEPTH) {
    const levels = [];
    for (let at = QUOTE_BYTES + DETAIL_BYTES; at < view.byteLength; at += LEVEL_BYTES) {
      const price = Number(view.getBigInt64(at, true)) / unit;
      levels.push({ price, quantity: unsigned(at + 8), orders: view.getUint32(at + 16, true) });
    }
    detail.depth = { buy: levels.slice(0, buyCount), sell: levels.slice(buyCount) };
  }
  return detail;
}

/** Writes instants as the server does. The part up to the second is kept between calls: quotes come
 * many to a second. */
class IndianClock {
  #second = NaN;
  #text = "";

  /** @param {bigint} epochNs of a year that has four digits, as all of 64 bits have */
  textOf(epochNs) {
    // The remainder of BigInt has the sign of what is divided.
    const nanos = ((epochNs % NS_PER_S) + NS_PER_S) % NS_PER_S;
    const second = Number((epochNs - nanos) / NS_PER_S);
    if (second !== this.#second) {
      this.#second = second;
      this.#text = new Date((second + INDIA_OFFSET_S) * 1000).toISOString().slice(0, 20);
    }
    return `${this.#text}${String(nanos).padStart(9, "0")}+05:30`;
  }
}

/** @param {number} days since 1970-01-01 */
function isoDate(days) {
  if (days < FIRST_DAY || days > LAST_DAY) throw new OdinError(`a date ${days} days from 1970`);
  return new Date(days * MS_PER_DAY).toISOString().slice(0, 10);
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new OdinError(error instanceof Error ? error.message : String(error));
  }
}

/** @param {any} value @returns {Json} */
function objectOf(value) {
  if (Object(value) !== value) throw new OdinError(`${value} is no object`);
  return value;
}
