/** The watchlist page in Chromium, against the real server. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, afterEach, before, describe, test } from "node:test";
import { originOf, servePage } from "./page-server.js";
import { RealServer, missing } from "./real-server.js";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = missing() || (existsSync(CHROMIUM) ? false : `there is no Chromium at ${CHROMIUM}`);
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

describe("the watchlist page", { skip }, () => {
  let pages;
  let odin;
  let browser;
  let open = [];

  before(async () => {
    const { chromium } = await import("playwright-core");
    pages = await servePage();
    odin = await RealServer.start({ CORS_ORIGINS: originOf(pages) });
    browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  });

  after(async () => {
    await browser?.close();
    await odin?.stop();
    pages?.close();
  });

  afterEach(async () => {
    for (const context of open.splice(0)) await context.close();
  });

  /** A page with a watchlist of its own, connected; `errors` is its console's. */
  async function watchlist(clientId) {
    const context = await browser.newContext();
    open.push(context);
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    const errors = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) errors.push(message.text());
    });
    page.on("pageerror", (error) => errors.push(String(error)));
    const query = new URLSearchParams({ url: odin.url, client_id: clientId });
    await page.goto(`${originOf(pages)}/browser/index.html?${query}`);
    await page.waitForSelector("#state.connected");
    return { page, errors };
  }

  const subscribe = async (page, stocks) => {
    await page.fill("#stocks", stocks);
    await page.press("#stocks", "Enter");
  };
  const symbols = (page) => page.locator("[data-cell=symbol]").allTextContents();
  const priced = (page, count) =>
    page.waitForFunction((n) => {
      const cells = [...document.querySelectorAll("tbody [data-cell=ltp]")];
      return cells.length === n && cells.every((cell) => /\d/.test(cell.textContent));
    }, count);

  test("rows appear, update, and only changed cells are touched", async () => {
    const { page, errors } = await watchlist("rows");
    assert.match(await page.textContent("#market"), /Market open/);
    assert.ok(await page.isVisible("#simulated"));
    await subscribe(page, "SBIN, 2885; INFY");
    await priced(page, 3);
    assert.deepEqual(await symbols(page), ["SBIN", "RELIANCE", "INFY"]);
    const touched = await page.evaluate(
      () =>
        new Promise((resolve) => {
          const cells = new Set();
          new MutationObserver((changes) => {
            for (const { target } of changes) cells.add(target.dataset?.cell);
            if (cells.has("ltp") && cells.has("volume")) resolve([...cells]);
          }).observe(document.getElementById("rows"), { childList: true, subtree: true });
        }),
    );
    for (const cell of ["symbol", "exchange", "open", "prev_close"]) {
      assert.ok(!touched.includes(cell), `${cell} was painted again`);
    }
    await page.waitForSelector(".price.up, .price.down");
    assert.deepEqual(errors, []);
  });

  test("what is not found is explained, and its suggestion subscribes", async () => {
    const { page, errors } = await watchlist("suggest");
    await subscribe(page, "RELIANC");
    await page.click("#notice button:has-text('RELIANCE')");
    await priced(page, 1);
    assert.ok(await page.isHidden("#notice"));
    await page.click(".remove");
    await page.waitForSelector("#empty");
    assert.deepEqual(await symbols(page), []);
    assert.deepEqual(errors, []);
  });

  test("markup in a name is shown, not run", async () => {
    const { page, errors } = await watchlist("markup");
    await subscribe(page, "<img src=x onerror=alert(1)>");
    await page.waitForSelector("#notice:has-text('<img')");
    assert.equal(await page.locator("#notice img").count(), 0);
    assert.deepEqual(errors, []);
  });

  test("a second window takes the watchlist over, and gives it back", async () => {
    const first = await watchlist("twice");
    await subscribe(first.page, "SBIN");
    await priced(first.page, 1);
    const second = await watchlist("twice");
    await priced(second.page, 1);
    await first.page.waitForSelector("#state.closed");
    await first.page.click("#notice button:has-text('Use it here')");
    await first.page.waitForSelector("#state.connected");
    await second.page.waitForSelector("#state.closed");
    assert.deepEqual([...first.errors, ...second.errors], []);
  });

  test("it comes back with its rows when the server was away", async () => {
    const { page, errors } = await watchlist("reconnect");
    await subscribe(page, "SBIN, TCS");
    await priced(page, 2);
    assert.deepEqual(errors, []);
    await odin.kill();
    await page.waitForSelector("#state.reconnecting");
    await odin.start();
    await page.waitForSelector("#state.connected");
    await page.waitForSelector(".price.up, .price.down");
    assert.deepEqual(await symbols(page), ["SBIN", "TCS"]);
    // A browser itself writes down each attempt that found nobody; nothing else may be there.
    const own = errors.filter((text) => !/^WebSocket connection to .* failed/.test(text));
    assert.deepEqual(own, []);
  });
});
