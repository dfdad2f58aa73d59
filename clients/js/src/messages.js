/**
 * The server's messages as values. Fields keep the names they have on the wire; what is added to
 * them is in camelCase. Lenient about what a server adds or leaves out, strict about what
 * identifies a quote.
 *
 * @typedef {import("./odin-client.d.ts").FailedStock} FailedStock
 * @typedef {import("./odin-client.d.ts").Json} Json
 * @typedef {import("./odin-client.d.ts").MarketStatus} MarketStatus
 * @typedef {import("./odin-client.d.ts").Quote} Quote
 * @typedef {import("./odin-client.d.ts").Subscription} Subscription
 * @typedef {import("./odin-client.d.ts").Welcome} Welcome
 */

import { OdinError } from "./errors.js";

/** @param {Json} message @returns {Quote} */
export function decodeQuote(message) {
  const data = message.data;
  for (const field of ["symbol", "token", "exchange", "ltp"]) {
    if (data?.[field] === undefined) throw new OdinError(`a quote without ${field}`);
  }
  return { ...data, sentMs: message.timestamp ?? null, isSnapshot: message.snapshot === true };
}

/** @param {Json} message @returns {Subscription[]} */
export function decodeSubscriptions(message) {
  const { subscribed_tokens: tokens, subscribed_symbols: symbols } = message.data;
  const exchanges = message.data.subscribed_exchanges;
  if (tokens.length !== symbols.length) {
    throw new OdinError("a subscriptions message whose tokens and symbols are not aligned");
  }
  return tokens.map((/** @type {string} */ token, /** @type {number} */ i) => ({
    symbol: symbols[i],
    token,
    exchange: exchanges?.[i] ?? null,
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

/** @param {string | Iterable<string | number>} stocks */
export const namesOf = (stocks) => (typeof stocks === "string" ? [stocks] : Array.from(stocks, String));
