/**
 * A small server of the real protocol that can do what a healthy one does not: close with any
 * code, fall silent, forget a client, refuse the handshake.
 */
import { once, EventEmitter } from "node:events";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

export const STOCKS = { SBIN: "3045", RELIANCE: "2885", TCS: "11536", INFY: "1594", ITC: "1660" };
const SYMBOLS = Object.fromEntries(Object.entries(STOCKS).map(([s, t]) => [t, s]));
const NOW_MS = 1756971591651;

export function marketData(symbol, ltp = 100, updated = `u${ltp}`) {
  const identity = { symbol, token: STOCKS[symbol], exchange: "NSE" };
  const data = { ...identity, ltp, timestamp: NOW_MS, last_updated: updated };
  return { type: "market_data", ...identity, data, timestamp: NOW_MS };
}

export class FakeServer extends EventEmitter {
  held = new Map();
  modes = {};
  requests = [];
  clientIds = [];
  formats = [];
  connects = 0;
  isMute = false;
  isGreeting = true;
  muteActions = new Set();
  marketOpen = false;
  refuseStatus = 0;
  lastQuotes = [];
  errors = {};

  static async start() {
    const server = new FakeServer();
    server.http = createServer();
    server.wss = new WebSocketServer({ noServer: true });
    server.http.on("upgrade", (request, socket, head) => server.#upgrade(request, socket, head));
    server.http.listen(0, "127.0.0.1");
    await once(server.http, "listening");
    return server;
  }

  get url() {
    return `ws://127.0.0.1:${this.http.address().port}/enhanced-stream`;
  }

  get actions() {
    return this.requests.map((request) => request.action);
  }

  async stop() {
    this.drop();
    this.http.close();
    await once(this.http, "close");
  }

  close(code, reason = "") {
    for (const socket of this.wss.clients) socket.close(code, reason);
  }

  drop() {
    for (const socket of this.wss.clients) socket.terminate();
  }

  /** Send an object as JSON; a text or bytes as they are. */
  push(message) {
    const isRaw = typeof message === "string" || message instanceof Uint8Array;
    const payload = isRaw ? message : JSON.stringify(message);
    for (const socket of this.wss.clients) socket.send(payload);
  }

  /** Wait until something that happened here makes the predicate true. */
  async until(predicate) {
    while (!predicate()) await once(this, "news");
  }

  #upgrade(request, socket, head) {
    this.connects += 1;
    socket.on("error", () => {});
    if (this.refuseStatus) {
      socket.end(`HTTP/1.1 ${this.refuseStatus} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
    } else {
      this.wss.handleUpgrade(request, socket, head, (ws) => this.#serve(ws, request));
    }
    this.emit("news");
  }

  #serve(ws, request) {
    const { searchParams } = new URL(request.url, "ws://localhost");
    const clientId = searchParams.get("client_id") ?? "made_up";
    this.clientIds.push(clientId);
    this.formats.push(searchParams.get("format"));
    const send = (message) => ws.send(JSON.stringify(message));
    ws.on("error", () => {});
    ws.on("close", (code) => {
      this.lastCloseCode = code;
      this.emit("news");
    });
    ws.on("message", (text) => {
      const asked = JSON.parse(text);
      this.requests.push(asked);
      if (!this.isMute && !this.muteActions.has(asked.action)) send(this.#answer(clientId, asked));
      this.emit("news");
    });
    if (this.isGreeting) {
      const data = {
        client_id: clientId,
        market_open: this.marketOpen,
        subscribed_stocks: this.#of(clientId).length,
      };
      send({ type: "welcome", status: "connected", data, client_id: clientId });
      for (const message of this.lastQuotes) send({ ...message, snapshot: true });
    }
    this.emit("news");
  }

  #of(clientId) {
    return this.held.get(clientId) ?? [];
  }

  #answer(clientId, asked) {
    const { action } = asked;
    if (this.errors[action]) return this.errors[action];
    const held = this.#of(clientId);
    const echo = { request_id: asked.request_id, timestamp: NOW_MS, status: "success" };
    const symbols = (asked.stocks ?? [])
      .map((name) => name.replace(/^.*:/, ""))
      .map((name) => SYMBOLS[name] ?? name);
    if (/subscribe$/.test(action) && !symbols.length) {
      const message = "No stocks provided for subscription";
      return { ...echo, type: "error", code: "no_stocks_subscribe", message };
    }
    if (action === "subscribe") {
      const known = symbols.filter((symbol) => symbol in STOCKS);
      for (const symbol of known) {
        if (asked.mode || !held.includes(symbol)) this.modes[symbol] = asked.mode ?? "quote";
      }
      const all = [...new Set([...held, ...known])];
      this.held.set(clientId, all);
      const data = {
        action,
        subscribed_stocks: known,
        failed_stocks: symbols.filter((symbol) => !(symbol in STOCKS)),
        already_subscribed: known.filter((symbol) => held.includes(symbol)),
        total_subscribed: all.length,
      };
      return { ...echo, type: "subscription_response", data };
    }
    if (action === "unsubscribe") {
      const left = held.filter((symbol) => !symbols.includes(symbol));
      this.held.set(clientId, left);
      const data = {
        action,
        unsubscribed_stocks: symbols.filter((symbol) => held.includes(symbol)),
        failed_stocks: symbols.filter((symbol) => !held.includes(symbol)),
        total_subscribed: left.length,
      };
      return { ...echo, type: "subscription_response", data };
    }
    if (action === "get_subscriptions") {
      const data = {
        subscribed_tokens: held.map((symbol) => STOCKS[symbol]),
        subscribed_symbols: held,
        subscribed_exchanges: held.map(() => "NSE"),
        subscribed_modes: held.map((symbol) => this.modes[symbol] ?? "quote"),
        total_subscribed: held.length,
      };
      return { ...echo, type: "subscriptions", data };
    }
    if (action === "market_status") {
      return { ...echo, type: "market_status", data: { market_open: this.marketOpen } };
    }
    if (action === "snapshot") {
      const quotes = (symbols.length ? symbols : held).map((symbol) => marketData(symbol).data);
      return { ...echo, type: "snapshot", data: { quotes, failed_stocks: [] } };
    }
    return { ...echo, type: "pong", status: "alive" };
  }
}
