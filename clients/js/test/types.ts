// Compiled, never run: how the types are meant to be used, and what they must refuse.
import { OdinClient, OdinError, OdinStreamerClient, TakenOver } from "odin-streamer-client";
import type { Format, MarketStatus, Quote, State } from "odin-streamer-client";
import * as source from "../src/client.js";
import { OdinStreamerClient as GuideSource } from "../src/guide.js";

export async function use(): Promise<void> {
  const client = new OdinClient("ws://localhost:8080", { clientId: "types", minDelayMs: 100, format: "binary" });
  client.on("welcome", (welcome) => welcome.format satisfies Format | undefined);
  client.on("quote", (quote: Quote) => quote.ltp.toFixed(2));
  client.on("status", (status: MarketStatus) => status.market_open satisfies boolean);
  client.addEventListener("state", (event) => event.detail satisfies State);
  client.on("error", (error) => error instanceof TakenOver && error.code.toFixed());
  await client.connect();
  const { subscribed, failed } = await client.subscribe(["SBIN", 2885]);
  [subscribed[0], failed[0]?.suggestions[0]] satisfies (string | undefined)[];
  await client.subscribe("SBIN", "full");
  client.on("gap", (gap) => (gap.toMs - gap.fromMs).toFixed());
  client.on("quote", ({ depth, oi }) => [depth?.buy[0]?.price.toFixed(2), oi?.toFixed()]);
  // @ts-expect-error a mode is one of three words
  await client.subscribe("SBIN", "depth");
  // @ts-expect-error most feeds tell only some of it
  client.on("quote", (quote) => quote.depth.buy);
  for await (const quote of client.quotes("SBIN")) quote.week_52_high?.toFixed(2);
  (await client.ping()) satisfies number;
  new OdinStreamerClient("me", { url: "ws://localhost:1" }).subscribeTokens(["3045"]);
  // @ts-expect-error null is possible where the server may not know
  client.on("quote", (quote) => quote.week_52_high.toFixed(2));
  // @ts-expect-error no such event
  client.on("qoute", () => {});
  // @ts-expect-error a format is one of five words
  new OdinClient("ws://localhost:8080", { format: "xml" });
  // @ts-expect-error a state is one of four words
  client.state === "open";
  // @ts-expect-error stocks are names or numbers
  await client.subscribe([{}]);
  new OdinError("base");
}

// What is declared is what is there: the source's own classes fit the declarations. (EventTarget's
// addEventListener is declared with typed events on top, which no implementation can have.)
type Without<T> = Omit<T, "addEventListener">;
export const client: Without<OdinClient> = new source.OdinClient("ws://localhost:8080");
export const guide: Without<OdinStreamerClient> = new GuideSource("me");
