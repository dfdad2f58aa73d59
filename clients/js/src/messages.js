/**
 * The server's messages as values. Fields keep the names they have on the wire; what is added to
 * them is in camelCase. Lenient about what a server adds or leaves out, strict about what
 * identifies a quote.
 *
 * @typedef {import("./odin-client.d.ts").FailedStock} FailedStock
 * @typedef {import("./odin-client.d.ts").Json} Json
 * @typedef {import("./odin-client.d.ts").Gap} Gap
 * @typedef {import("./odin-client.d.ts").MarketStatus} MarketStatus
 * @typedef {import("./odin-client.d.ts").Mode} Mode
 * @typedef {import("./odin-client.d.ts").Quote} Quote
 * @typedef {import("./odin-client.d.ts").Subscription} Subscription
 * @typedef {import("./odin-client.d.ts").Welcome} Welcome
 */

import { OdinError } from "./errors.js";

const RESTORE_BATCH = 500;

/** @param {Json} message @returns {Quote} */
export function decodeQuote(message) {
  const { mode = "quote", symbol, token, exchange } = message;
  // That of the ltp mode leaves what identifies its stock to the message.
  const data = mode === "ltp" ? { symbol, token, exchange, ...message.data } : message.data;
  for (const field of ["symbol", "token", "exchange", "ltp"]) {
    if (data?.[field] === undefined) throw new OdinError(`a quote without ${field}`);
  }
  return { ...data, sentMs: message.timestamp ?? null, isSnapshot: message.snapshot === true, mode };
}

/** @param {Json} message @returns {Gap} */
export function decodeGap(message) {
  const { feed, from, to } = message.data;
  return { feed, fromMs: from, toMs: to };
}

/** @param {Json} message @returns {Subscription[]} */
export function decodeSubscriptions(message) {
  const { subscribed_tokens: tokens, subscribed_symbols: symbols } = message.data;
  const { subscribed_exchanges: exchanges, subscribed_modes: modes } = message.data;
  if (tokens.length !== symbols.length) {
    throw new OdinError("a subscriptions message whose tokens and symbols are not aligned");
  }
  return tokens.map((/** @type {string} */ token, /** @type {number} */ i) => ({
    symbol: symbols[i],
    token,
    exchange: exchanges?.[i] ?? null,
    mode: modes?.[i] ?? "quote",
  }));
}

/** With bare names where the server gives no details.
 * @param {Json} data @returns {FailedStock[]} */
function decodeFailed(data) {
  if (data.failed_details?.length) return data.failed_details;
  const stocks = data.failed_stocks ?? [];
  return stocks.map((/** @type {string} */ stock) => ({ stock, code: "", message: "", suggestions: [] }));
}

/** @param {Json} message */
export function decodeSubscribe(message) {
  const data = message.data;
  return {
    subscribed: /** @type {string[]} */ (data.subscribed_stocks ?? []),
    alreadySubscribed: /** @type {string[]} */ (data.already_subscribed ?? []),
    failed: decodeFailed(data),
    totalSubscribed: /** @type {number} */ (data.total_subscribed ?? 0),
  };
}

/** @param {Json} message */
export function decodeUnsubscribe(message) {
  const data = message.data;
  return {
    unsubscribed: /** @type {string[]} */ (data.unsubscribed_stocks ?? []),
    failed: decodeFailed(data),
    totalSubscribed: /** @type {number} */ (data.total_subscribed ?? 0),
  };
}

/** @param {Json} message */
export function decodeSnapshot(message) {
  const quotes = message.data.quotes.map((/** @type {Json} */ data) =>
    decodeQuote({ data, timestamp: message.timestamp, snapshot: true }),
  );
  return { quotes: /** @type {Quote[]} */ (quotes), failed: decodeFailed(message.data) };
}

/** @param {Json} message @returns {MarketStatus} */
export function decodeMarketStatus(message) {
  return message.data;
}

/** @param {Json} message @returns {Welcome} */
export function decodeWelcome(message) {
  return { ...message.data, client_id: message.client_id ?? message.data.client_id };
}

/** What the server understands again as this very stock. By symbol, because an exchange may give one
 * token to a share and to an index; by token where the exchange is not known, because symbols are
 * shared by exchanges. @param {Subscription} stock */
export const nameOf = (stock) => (stock.exchange ? `${stock.exchange}:${stock.symbol}` : stock.token);

/** @param {{symbol: string, token: string, exchange: string | null}} stock */
export const keyOf = (stock) => `${stock.exchange}:${stock.token}:${stock.symbol}`;

/**
 * The names of what is listed and not held, in requests of one mode. Held stocks keep the mode that
 * the server has for them.
 * @param {Subscription[]} listed @param {Subscription[]} held @returns {[string[], Mode][]}
 */
export function missingOf(listed, held) {
  const known = new Set(held.map(keyOf));
  /** @type {Map<Mode, string[]>} */
  const names = new Map();
  for (const stock of listed) {
    if (known.has(keyOf(stock))) continue;
    names.set(stock.mode, [...(names.get(stock.mode) ?? []), nameOf(stock)]);
  }
  /** @type {[string[], Mode][]} */
  const requests = [];
  for (const [mode, stocks] of names) {
    for (let start = 0; start < stocks.length; start += RESTORE_BATCH) {
      requests.push([stocks.slice(start, start + RESTORE_BATCH), mode]);
    }
  }
  return requests;
}

/** @param {string | Iterable<string | number>} stocks */
export const namesOf = (stocks) => (typeof stocks === "string" ? [stocks] : Array.from(stocks, String));
