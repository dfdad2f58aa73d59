/**
 * A live watchlist of one page. Quotes are painted once per animation frame, the newest of each
 * stock, and only cells that changed are touched.
 *
 * Query: `url` of the server (ws://localhost:8080), `client_id` (made once and kept by the browser).
 */
import { OdinClient, TakenOver } from "../src/odin-client.js";

/** @typedef {import("../src/odin-client.d.ts").Quote} Quote */

const query = new URLSearchParams(location.search);
const clientId = query.get("client_id") ?? rememberedId();
const client = new OdinClient(query.get("url") ?? "ws://localhost:8080", {
  clientId,
  connectTimeoutMs: Infinity,
});

const rupees = new Intl.NumberFormat("en-IN", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = new Intl.NumberFormat("en-IN");
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "Asia/Kolkata" });

/** @param {string} id @returns {any} */
const byId = (id) => document.getElementById(id);
const [state, market, notice, tbody, empty] = ["state", "market", "notice", "rows", "empty"].map(byId);
/** @type {HTMLTemplateElement} */
const template = byId("row");

function rememberedId() {
  const made = localStorage.getItem("odin_client_id") ?? `watchlist_${crypto.getRandomValues(new Uint32Array(3)).join("")}`;
  localStorage.setItem("odin_client_id", made);
  return made;
}

// ---------------------------------------------------------------- rows

/** One stock on the page; it remembers what its cells show. */
class Row {
  /** @type {number | null} */ #ltp = null;
  /** @type {Map<string, string>} */ #shown = new Map();
  /** @type {Record<string, any>} */ #cells = {};

  /** @param {{symbol: string, token: string, exchange: string | null}} stock */
  constructor({ symbol, token, exchange }) {
    const fragment = /** @type {DocumentFragment} */ (template.content.cloneNode(true));
    this.element = /** @type {HTMLElement} */ (fragment.firstElementChild);
    for (const cell of this.element.querySelectorAll("[data-cell]")) {
      this.#cells[/** @type {HTMLElement} */ (cell).dataset.cell ?? ""] = cell;
    }
    this.mark = /** @type {HTMLElement} */ (this.element.querySelector("i b"));
    this.#set("symbol", symbol);
    this.#set("exchange", exchange ?? "");
    const remove = /** @type {HTMLElement} */ (this.element.querySelector(".remove"));
    remove.setAttribute("aria-label", `Unsubscribe ${symbol}`);
    const name = exchange ? `${exchange}:${symbol}` : token;
    remove.addEventListener("click", () => attempt(() => client.unsubscribe(name)));
    // Removing the class when it has run lets the next change start it anew.
    this.#cells.ltp.addEventListener("animationend", () => (this.#cells.ltp.className = "price"));
  }

  /** @param {string} cell @param {string} text */
  #set(cell, text) {
    if (this.#shown.get(cell) === text) return;
    this.#shown.set(cell, text);
    this.#cells[cell].textContent = text;
  }

  /** @param {Quote} quote */
  paint(quote) {
    const { ltp, percent_change: percent, day_high: high, day_low: low } = quote;
    if (this.#ltp !== null && ltp !== this.#ltp) {
      this.#cells.ltp.className = `price ${ltp > this.#ltp ? "up" : "down"}`;
    }
    this.#ltp = ltp;
    this.#set("ltp", rupees.format(ltp));
    this.#set("change", percent === null ? "–" : `${percent > 0 ? "+" : ""}${percent.toFixed(2)} %`);
    this.#cells.change.className = `number change ${(percent ?? 0) < 0 ? "down" : "up"}`;
    this.#set("open", rupees.format(quote.open));
    this.#set("low", rupees.format(low));
    this.#set("high", rupees.format(high));
    const share = high > low ? (ltp - low) / (high - low) : 0.5;
    this.mark.style.transform = `translateX(${(share * 100).toFixed(0)}%)`;
    this.#set("prev_close", quote.prev_close === null ? "–" : rupees.format(quote.prev_close));
    this.#set("volume", whole.format(quote.volume));
    this.#set("time", clock.format(quote.timestamp));
  }
}

/** @type {Map<string, Row>} */
const rows = new Map();
/** @type {Map<string, Quote>} */
const unpainted = new Map();
let isPaintDue = false;

/** @param {{symbol: string, token: string, exchange: string | null}} stock */
const keyOf = (stock) => `${stock.exchange}:${stock.token}:${stock.symbol}`;

/** @param {Quote} quote */
function show(quote) {
  unpainted.set(keyOf(quote), quote);
  if (isPaintDue) return;
  isPaintDue = true;
  requestAnimationFrame(() => {
    isPaintDue = false;
    for (const [key, newest] of unpainted) rows.get(key)?.paint(newest);
    unpainted.clear();
  });
}

/** Have a row for each stock of the server's list, filled with what is known last. */
async function refresh() {
  const listed = await client.subscriptions();
  const keys = new Set(listed.map(keyOf));
  for (const [key, row] of rows) {
    if (keys.has(key)) continue;
    row.element.remove();
    rows.delete(key);
  }
  for (const stock of listed) {
    if (rows.has(keyOf(stock))) continue;
    const row = new Row(stock);
    rows.set(keyOf(stock), row);
    tbody.append(row.element);
  }
  empty.hidden = rows.size > 0;
  if (rows.size) (await client.snapshot()).quotes.forEach(show);
}

// ---------------------------------------------------------------- what is said

/** @param {string} [text] @param {[string, () => void][]} [actions] */
function say(text = "", actions = []) {
  notice.hidden = !text;
  notice.replaceChildren(text);
  for (const [label, act] of actions) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", act);
    notice.append(button);
  }
}

/** Do what the user asked, and show the list as it is then. @param {() => Promise<any>} work */
async function attempt(work) {
  try {
    const { failed } = await work();
    say();
    if (failed.length) {
      /** @type {{message: string, stock: string, suggestions: string[]}[]} */
      const stocks = failed;
      const text = stocks.map((one) => one.message || `${one.stock} was not found`).join(". ");
      const offers = stocks.flatMap((one) => one.suggestions);
      say(text, offers.map((name) => [name, () => attempt(() => client.subscribe(name))]));
    }
    await refresh();
  } catch (error) {
    say(String(error instanceof Error ? error.message : error));
  }
}

/** @param {import("../src/odin-client.d.ts").MarketStatus} status */
function showMarket(status) {
  byId("simulated").hidden = !status.simulated;
  const open = document.createElement("strong");
  open.textContent = status.market_open ? "Market open" : "Market closed";
  const next = status.market_open ? `closes ${status.next_close}` : `opens ${status.next_open}`;
  const phase = ["open", "closed"].includes(status.phase ?? "") ? "" : status.phase?.replace("_", " ");
  const parts = [status.holiday, phase, `${next} IST`];
  market.replaceChildren(open, ` · ${parts.filter(Boolean).join(" · ")}`);
  if (status.feed?.stale) {
    const stale = document.createElement("span");
    stale.className = "stale";
    stale.textContent = " · the data is stale";
    market.append(stale);
  }
}

// ---------------------------------------------------------------- the session

client.on("quote", show);
client.on("status", showMarket);
client.on("state", (now) => {
  state.textContent = now;
  state.className = `badge ${now}`;
  document.body.classList.toggle("offline", now !== "connected");
  if (now !== "connected") return;
  attempt(async () => {
    await client.marketStatus();
    return { failed: [] };
  });
});
client.on("error", (error) => {
  if (error instanceof TakenOver) {
    say("This watchlist is open in another window.", [["Use it here", connect]]);
  } else if (client.state === "closed") say(error.message, [["Connect again", connect]]);
});

function connect() {
  say();
  client.connect().catch(() => {}); // the error event tells it
}

byId("add").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const input = byId("stocks");
  const stocks = input.value.split(/[,;]+|\s*\n\s*/).map((/** @type {string} */ s) => s.trim()).filter(Boolean);
  input.value = "";
  if (stocks.length) attempt(() => client.subscribe(stocks));
});

connect();
