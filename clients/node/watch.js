#!/usr/bin/env node
/**
 * A watchlist in the terminal: node watch.js SBIN 2885 RELIANCE [--url ws://…] [--client-id ID]
 *
 * On a terminal a table that is drawn again at most ten times a second; into a pipe one line per
 * quote. Ends with Ctrl-C; exit code 1 when no stock was found or the server is gone for good.
 */
import { parseArgs } from "node:util";
import { ConnectionClosed, OdinClient, OdinError } from "odin-streamer-client";
import WebSocket from "ws";
import { lineOf, screenOf } from "./table.js";

const REDRAW_MS = 100;
const USAGE = "usage: node watch.js STOCK… [--url ws://HOST:PORT] [--client-id ID]";

async function main() {
  const { positionals: stocks, values } = parseArgs({
    allowPositionals: true,
    options: {
      url: { type: "string", default: "ws://localhost:8080" },
      "client-id": { type: "string" },
    },
  });
  if (!stocks.length) throw new OdinError(USAGE);
  const client = new OdinClient(values.url, { clientId: values["client-id"], WebSocket });
  process.once("SIGINT", () => client.close());
  process.once("SIGTERM", () => client.close());
  process.stdout.once("error", () => client.close()); // whoever read the pipe has left
  const stream = client.quotes();
  client.on("error", (error) => {
    if (client.state !== "closed") process.stderr.write(`${error.message}\n`);
  });
  await client.connect();
  const { failed, subscribed } = await client.subscribe(stocks);
  for (const { message, stock, suggestions } of failed) {
    const hint = suggestions.length ? `; near it are ${suggestions.join(", ")}` : "";
    process.stderr.write(`${message || `${stock} was not found`}${hint}\n`);
  }
  if (!subscribed.length) {
    client.close();
    process.exitCode = 1;
    return;
  }
  if (process.stdout.isTTY) await table(client, stream);
  else for await (const quote of stream) process.stdout.write(`${lineOf(quote)}\n`);
}

/** Draw the table until the client ends. */
async function table(client, stream) {
  const newest = new Map();
  let market = "";
  let isDrawn = true;
  client.on("state", () => (isDrawn = false));
  client.on("status", (status) => {
    market = `market ${status.market_open ? "open" : "closed"}${status.simulated ? ", simulated" : ""}`;
    isDrawn = false;
  });
  const draw = () => {
    if (isDrawn) return;
    isDrawn = true;
    const about = { state: client.state, market, hasColor: !process.env.NO_COLOR };
    process.stdout.write(`\x1b[H\x1b[J${screenOf(newest.values(), about)}`);
  };
  const timer = setInterval(draw, REDRAW_MS);
  try {
    await client.marketStatus();
    for await (const quote of stream) {
      newest.set(`${quote.exchange}:${quote.token}:${quote.symbol}`, quote);
      isDrawn = false;
    }
  } finally {
    clearInterval(timer);
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof OdinError || error instanceof TypeError)) throw error;
  const isWished = error instanceof ConnectionClosed && error.code === 1000;
  if (!isWished) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
