/**
 * OdinClient: one session with the server, over as many connections as it takes. The server
 * keeps the session's subscriptions by client_id; the client remembers the server's own list,
 * compares after each reconnect and asks again only for what is missing. Listeners outlive
 * connections; a request settles exactly once, repeated over reconnects until its timeout.
 *
 * @typedef {import("./odin-client.d.ts").Quote} Quote
 * @typedef {import("./odin-client.d.ts").Subscription} Subscription
 * @typedef {import("./odin-client.d.ts").State} State
 * @typedef {import("./odin-client.d.ts").Json} Json
 * @typedef {import("./odin-client.d.ts").Welcome} Welcome
 * @typedef {import("./odin-client.d.ts").MarketStatus} MarketStatus
 * @typedef {import("./odin-client.d.ts").Mode} Mode
 * @typedef {import("./odin-client.d.ts").ClientOptions} ClientOptions
 */

import { MessageReader } from "./encodings.js";
import { ConnectFailed, ConnectionClosed, OdinError, RequestError, RequestTimeout, TakenOver } from "./errors.js";
import {
  decodeGap,
  decodeMarketStatus,
  decodeQuote,
  decodeSnapshot,
  decodeSubscribe,
  decodeSubscriptions,
  decodeUnsubscribe,
  decodeWelcome,
  keyOf,
  missingOf,
  namesOf,
} from "./messages.js";
import { Identity, isNotNeeded } from "./identity.js";
import { addressOf, importWs, settingsOf } from "./options.js";
import { QuoteStream } from "./quotes.js";
import { RequestTable, requestError } from "./requests.js";
import { ABNORMAL, CLIENT_CLOSED, STEADY_AFTER_MS, TAKEN_OVER, isRefusal, reconnectDelayMs } from "./reconnect.js";

const RESTORE_AGAIN_MS = 5_000;
/** Changes in quick succession are followed by one look at the server's list. */
const LIST_AFTER_MS = 250;

export class OdinClient extends EventTarget {
  #url;
  #options;
  /** @type {string | undefined} */ #clientId;
  #identity;
  /** @type {any} */ #WebSocket;
  /** @type {State} */ #state = "closed";
  /** @type {OdinError | null} */ #error = null;
  /** @type {Welcome | null} */ #welcome = null;
  #isStarted = false;
  #isEnded = false;
  #isMarketOpen = false;
  #isReady = false;
  #heardAt = 0;
  #failures = 0;
  /** @type {any} */ #socket = null;
  /** Ends the present connection from this side. @type {(lost: OdinError) => void} */
  #drop = () => {};
  /** @type {Set<ReturnType<typeof setTimeout>>} */ #timers = new Set();
  /** Those of the present connection. @type {Set<ReturnType<typeof setTimeout>>} */
  #linkTimers = new Set();
  #requests = new RequestTable();
  /** The server's list as it last stated it, @type {Subscription[]} */ #listed = [];
  /** and the changes it acknowledged since. @type {[string, string[], Mode?][]} */ #changes = [];
  #isListDue = false;
  /** @type {Map<string, string>} */ #seen = new Map();
  /** @type {Set<QuoteStream>} */ #streams = new Set();
  /** @type {{resolve: () => void, reject: (e: Error) => void} | null} */ #connecting = null;

  /** @param {string | URL} url @param {ClientOptions} [options] */
  constructor(url, options = {}) {
    super();
    this.#url = addressOf(url);
    const { clientId, apiKey, resumeToken, WebSocket, settings } = settingsOf(options);
    this.#clientId = clientId;
    this.#identity = new Identity(apiKey, resumeToken);
    this.#WebSocket = WebSocket;
    this.#options = settings;
  }

  /** "connected" means that subscriptions are in place, not only that a socket is open. */
  get state() {
    return this.#state;
  }

  /** The name of the session; undefined before a first connection gave one. */
  get clientId() {
    return this.#clientId;
  }

  /** What continues this session, for a server that asks for it: keep it like a password. */
  get resumeToken() {
    return this.#identity.resumeToken;
  }

  /** What the server said at the last connect. */
  get welcome() {
    return this.#welcome;
  }

  // ---------------------------------------------------------------- life

  /** Connect; resolves once subscriptions are in place. Rejects with ConnectFailed when that is
   * refused or takes longer than connectTimeoutMs, with ConnectionClosed when closed for good. */
  connect() {
    if (this.#isStarted) {
      return Promise.reject(new OdinError("this client is already connected or connecting"));
    }
    this.#isStarted = true;
    this.#isEnded = false;
    this.#error = null;
    this.#failures = 0;
    const connected = new Promise((/** @type {(v: void) => void} */ resolve, reject) => {
      this.#connecting = { resolve, reject };
    });
    const { connectTimeoutMs } = this.#options;
    if (Number.isFinite(connectTimeoutMs)) {
      this.#after(connectTimeoutMs, () => {
        if (!this.#connecting) return;
        const why = this.#error?.message ?? `no answer from ${this.#url}`;
        this.#finish(new ConnectFailed(`no connection in ${connectTimeoutMs} ms: ${why}`));
      });
    }
    this.#setState("connecting");
    this.#open();
    return connected;
  }

  /** Close the connection and end every request and stream. The subscriptions stay stored at the
   * server for this client_id. */
  close() {
    if (this.#isStarted) this.#finish(null);
  }

  // ---------------------------------------------------------------- requests

  /** Subscribe symbols or tokens. What could not be found is in `failed` of the result. A mode is
   * also for stocks that are held; the server keeps it.
   * @param {string | Iterable<string | number>} stocks @param {Mode} [mode] */
  async subscribe(stocks, mode) {
    return decodeSubscribe(await this.#change("subscribe", namesOf(stocks), mode));
  }

  /** @param {string | Iterable<string | number>} stocks */
  async unsubscribe(stocks) {
    return decodeUnsubscribe(await this.#change("unsubscribe", namesOf(stocks)));
  }

  /** The server's list for this client_id, in subscription order. */
  async subscriptions() {
    return decodeSubscriptions(await this.#request("get_subscriptions"));
  }

  async marketStatus() {
    return decodeMarketStatus(await this.#request("market_status"));
  }

  /** The last known quotes of the stocks, or of all subscribed ones, at any hour.
   * @param {string | Iterable<string | number>} [stocks] */
  async snapshot(stocks = []) {
    return decodeSnapshot(await this.#request("snapshot", namesOf(stocks)));
  }

  /** How long the server took to answer, in ms. */
  async ping() {
    const askedAt = performance.now();
    await this.#request("ping");
    return performance.now() - askedAt;
  }

  // ---------------------------------------------------------------- data

  /** Quotes of the given stocks, of all without any; only the newest of each stock waits.
   * @param {...string} stocks symbols or tokens, bare or as EXCHANGE:NAME */
  quotes(...stocks) {
    const stream = new QuoteStream(stocks, (ended) => this.#streams.delete(ended));
    if (this.#isEnded) stream.end(this.#error);
    else this.#streams.add(stream);
    return stream;
  }

  /** Call a function with the detail of every event of a kind; returns what removes it again.
   * @param {string} type @param {(detail: any) => void} listener */
  on(type, listener) {
    const onEvent = (/** @type {Event} */ event) => listener(/** @type {CustomEvent} */ (event).detail);
    this.addEventListener(type, onEvent);
    return () => this.removeEventListener(type, onEvent);
  }

  // ---------------------------------------------------------------- connections

  async #open() {
    const url = new URL(this.#url);
    url.searchParams.set("format", this.#options.format);
    if (this.#clientId !== undefined) url.searchParams.set("client_id", this.#clientId);
    try {
      this.#WebSocket ??= globalThis.WebSocket ?? (await importWs());
      if (this.#isStarted && !this.#socket) this.#live(this.#identity.connect(this.#WebSocket, url.href));
    } catch (error) {
      this.#finish(new OdinError(`no WebSocket could be made: ${error}`));
    }
  }

  /** Have the socket as the present one, until it closes or is dropped. @param {any} socket */
  #live(socket) {
    const reader = new MessageReader(this.#options.format);
    let openedAt = Infinity;
    let failure = "";
    const over = (/** @type {OdinError} */ lost) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      this.#isReady = false;
      this.#isListDue = false;
      for (const timer of this.#linkTimers) clearTimeout(timer);
      this.#linkTimers.clear();
      this.#requests.disconnected(lost);
      this.#lost(lost, performance.now() - openedAt);
    };
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#drop = (lost) => {
      over(lost);
      socket.close(CLIENT_CLOSED);
    };
    socket.addEventListener("open", () => {
      openedAt = performance.now();
      this.#identity.introduce(socket);
    });
    socket.addEventListener("message", (/** @type {MessageEvent} */ event) => {
      if (this.#socket !== socket) return;
      this.#heardAt = performance.now();
      this.#take(reader, event.data);
    });
    // `ws` throws an error that nobody listens to; a browser's has no message.
    socket.addEventListener("error", (/** @type {any} */ event) => (failure = event.message ?? ""));
    socket.addEventListener("close", (/** @type {CloseEvent} */ event) => {
      if (openedAt === Infinity) {
        const status = /response: (\d{3})/.exec(failure)?.[1];
        const why = `${this.#url.href} could not be reached: ${failure || "connection failed"}`;
        over(new ConnectFailed(why, status === undefined ? undefined : Number(status)));
      } else {
        const Kind = event.code === TAKEN_OVER ? TakenOver : ConnectionClosed;
        over(new Kind(event.code, event.reason));
      }
    });
    this.#welcome = null;
    this.#heardAt = performance.now();
    this.#whileConnected(this.#options.requestTimeoutMs, () => {
      if (!this.#welcome) this.#drop(new ConnectionClosed(ABNORMAL, "no welcome arrived"));
    });
  }

  /** Come back if that is of use. @param {OdinError} lost @param {number} livedMs */
  #lost(lost, livedMs) {
    if (!this.#isStarted) return;
    if (livedMs >= STEADY_AFTER_MS) this.#failures = 0;
    const { minDelayMs, maxDelayMs } = this.#options;
    const code = lost instanceof ConnectionClosed ? lost.code : ABNORMAL;
    const isRefused = lost instanceof ConnectFailed && isRefusal(lost.status);
    const delay = isRefused ? null : reconnectDelayMs(code, this.#failures, minDelayMs, maxDelayMs);
    if (delay === null) {
      this.#finish(lost);
      return;
    }
    this.#failures += 1;
    this.#error = lost;
    this.#emit("error", lost);
    if (this.#state === "connected") this.#setState("reconnecting");
    this.#after(delay, () => this.#open());
  }

  /** Restore the session, then let requests through. */
  async #attend() {
    const socket = this.#socket;
    const isRestored = await this.#restore();
    if (this.#socket !== socket) return;
    this.#isReady = true;
    this.#error = null;
    this.#setState("connected");
    this.#connecting?.resolve();
    this.#connecting = null;
    for (const request of this.#requests.unsent()) this.#send(request);
    if (!isRestored) this.#restoreLater();
    else if (this.#changes.length) this.#listLater();
    this.#watch();
  }

  /** Ask again for what the server no longer has; resolves to whether that was possible. */
  async #restore() {
    return this.#survive(async () => {
      const held = decodeSubscriptions(await this.#ask("get_subscriptions"));
      for (const [batch, mode] of missingOf(this.#listed, held)) {
        const { failed } = decodeSubscribe(await this.#ask("subscribe", batch, mode));
        for (const { code, stock, message } of failed) {
          this.#emit("error", new RequestError(code, `${stock} was not restored: ${message}`));
        }
      }
      for (const change of [...this.#changes]) await this.#ask(...change);
      await this.#list();
    });
  }

  /** Remember the server's list; changes it contains need no replay any more. */
  async #list() {
    const contained = this.#changes.length;
    this.#listed = decodeSubscriptions(await this.#ask("get_subscriptions"));
    this.#changes.splice(0, contained);
  }

  #listLater() {
    if (this.#isListDue || !this.#isReady) return;
    this.#isListDue = true;
    this.#whileConnected(LIST_AFTER_MS, async () => {
      this.#isListDue = false;
      if (!(await this.#survive(() => this.#list()))) this.#restoreLater();
    });
  }

  #restoreLater() {
    this.#whileConnected(RESTORE_AGAIN_MS, async () => {
      if (!(await this.#restore())) this.#restoreLater();
    });
  }

  /** Do work of the client's own; resolves to whether it succeeded. No answer at all means that
   * the connection is dead. @param {() => Promise<void>} work */
  async #survive(work) {
    const socket = this.#socket;
    try {
      await work();
      return true;
    } catch (error) {
      if (this.#socket !== socket || !socket) return false;
      const problem = error instanceof OdinError ? error : new OdinError(String(error));
      if (problem instanceof RequestTimeout) {
        this.#drop(new ConnectionClosed(ABNORMAL, problem.message));
      } else this.#emit("error", problem);
      return false;
    }
  }

  /** After silence ask the server whether it is there: a browser has no pings of its own. */
  #watch() {
    const restMs = this.#options.silenceMs - (performance.now() - this.#heardAt);
    const socket = this.#socket;
    this.#whileConnected(Math.max(restMs, 0), async () => {
      if (performance.now() - this.#heardAt >= this.#options.silenceMs) {
        const action = this.#isMarketOpen ? "market_status" : "ping";
        await this.#survive(async () => void (await this.#ask(action)));
      }
      if (this.#socket === socket) this.#watch();
    });
  }

  // ---------------------------------------------------------------- messages

  /** @param {MessageReader} reader @param {string | ArrayBuffer} payload */
  #take(reader, payload) {
    let message;
    try {
      const decoded = reader.decode(payload);
      if (!decoded) return;
      message = reader.complete(decoded);
      this.#dispatch(message);
    } catch (error) {
      const why = error instanceof Error ? error.message : error;
      this.#emit("error", new OdinError(`a message was not understood: ${why}`));
      return;
    }
    this.#emit("message", message);
  }

  /** @param {Json} message */
  #dispatch(message) {
    if (message.type === "market_data") {
      const quote = decodeQuote(message);
      const key = keyOf(quote);
      // Each connection begins with the last known quotes; what was seen is no news.
      const isRestored = quote.isSnapshot && !this.#isReady;
      const state = [quote.mode, quote.last_updated, quote.timestamp, quote.ltp].join();
      if (isRestored && this.#seen.get(key) === state) return;
      this.#seen.set(key, state);
      for (const stream of this.#streams) stream.put(quote);
      this.#emit("quote", quote);
    } else if (message.type === "welcome") {
      const welcome = (this.#welcome = decodeWelcome(message));
      this.#clientId ??= welcome.client_id;
      this.#identity.resumeToken = welcome.resume_token ?? this.#identity.resumeToken;
      this.#isMarketOpen = welcome.market_open;
      this.#emit("welcome", welcome);
      this.#attend();
    } else {
      if (message.type === "market_status") {
        const status = decodeMarketStatus(message);
        this.#isMarketOpen = status.market_open;
        this.#emit("status", status);
      } else if (message.type === "feed_gap") this.#emit("gap", decodeGap(message));
      if (!isNotNeeded(message) && !this.#requests.take(message) && message.type === "error") {
        this.#emit("error", requestError(message));
      }
    }
  }

  /** @param {string} action @param {string[]} stocks @param {Mode} [mode] */
  async #change(action, stocks, mode) {
    try {
      const answer = await this.#request(action, stocks, mode);
      this.#changes.push([action, stocks, mode]);
      return answer;
    } finally {
      this.#listLater();
    }
  }

  /** A request of the client itself: at once, and over the present connection alone.
   * @param {string} action @param {string[]} [stocks] @param {Mode} [mode] */
  #ask(action, stocks, mode) {
    return this.#request(action, stocks, mode, true);
  }

  /** @param {string} action @param {string[]} [stocks] @param {Mode} [mode]
   * @returns {Promise<Json>} */
  #request(action, stocks = [], mode = undefined, isUrgent = false) {
    if (!this.#isStarted) {
      return Promise.reject(this.#error ?? new ConnectionClosed(CLIENT_CLOSED, "not connected"));
    }
    const request = this.#requests.add(action, stocks, mode, isUrgent);
    const { requestTimeoutMs } = this.#options;
    const timer = this.#after(requestTimeoutMs, () =>
      request.reject(new RequestTimeout(action, requestTimeoutMs, this.#state)),
    );
    if (isUrgent || this.#isReady) this.#send(request);
    return request.answer.finally(() => {
      clearTimeout(timer);
      this.#timers.delete(timer);
    });
  }

  /** @param {import("./requests.js").Request} request */
  #send(request) {
    if (this.#socket?.readyState !== 1) return; // the close event follows, the next link repeats
    request.isSent = true;
    this.#socket.send(request.frame);
  }

  // ---------------------------------------------------------------- telling

  /** @param {number} ms @param {() => void} work */
  #after(ms, work, timers = this.#timers) {
    const timer = setTimeout(() => {
      timers.delete(timer);
      work();
    }, ms);
    timers.add(timer);
    return timer;
  }

  /** Do the work later, unless the present connection has ended by then.
   * @param {number} ms @param {() => void} work */
  #whileConnected(ms, work) {
    if (this.#socket) this.#after(ms, work, this.#linkTimers);
  }

  /** @param {string} type @param {unknown} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** @param {State} state */
  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#emit("state", state);
  }

  /** End for good; null when the program wished it. @param {OdinError | null} error */
  #finish(error) {
    if (!this.#isStarted) return;
    this.#isStarted = false;
    this.#isEnded = true;
    this.#error = error;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    const ending = error ?? new ConnectionClosed(CLIENT_CLOSED, "closed by close()");
    if (this.#socket) this.#drop(ending);
    this.#requests.fail(ending);
    for (const stream of this.#streams) stream.end(error);
    this.#streams.clear();
    this.#connecting?.reject(ending);
    this.#connecting = null;
    if (error) this.#emit("error", error);
    this.#setState("closed");
  }
}
