/**
 * The integration guide's client under its own names.
 *
 * @typedef {import("./odin-client.d.ts").ClientOptions} ClientOptions
 * @typedef {import("./odin-client.d.ts").Json} Json
 */

import { OdinClient } from "./client.js";

/**
 * The client of the integration guide, with its method names: made of a client_id, it connects to
 * `ws://localhost:8080` unless told otherwise, tries for ever, and can be used without awaiting.
 * Override `onMarketData`, or listen to events as on any OdinClient.
 */
export class OdinStreamerClient extends OdinClient {
  /** @param {string} clientId @param {ClientOptions & {url?: string | URL}} [options] */
  constructor(clientId, { url = "ws://localhost:8080", ...options } = {}) {
    super(url, { connectTimeoutMs: Infinity, ...options, clientId });
    this.on("message", (message) => this.handleMessage(message));
  }

  connect() {
    return quietly(super.connect());
  }

  /** @param {string[]} symbols */
  subscribeSymbols(symbols) {
    return quietly(this.subscribe(symbols));
  }

  /** @param {string[]} tokens */
  subscribeTokens(tokens) {
    return quietly(this.subscribe(tokens));
  }

  /** @param {string[]} items */
  subscribeMixed(items) {
    return quietly(this.subscribe(items));
  }

  getSubscriptions() {
    return quietly(this.subscriptions());
  }

  /** Sees every message of the server, as it came. @param {Json} message */
  handleMessage(message) {
    if (message.type === "market_data") this.onMarketData(message);
  }

  /** To be overridden. @param {Json} message a market_data message */
  onMarketData(message) {
    void message;
  }
}

/** A promise that may be left alone: what it rejects with is an event too, or of no interest.
 * @template T @param {Promise<T>} promise */
function quietly(promise) {
  promise.catch(() => {});
  return promise;
}
