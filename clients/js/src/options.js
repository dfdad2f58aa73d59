/**
 * What a client is made with: the address and the options, checked and complete.
 *
 * @typedef {import("./odin-client.d.ts").ClientOptions} ClientOptions
 */

import { FORMATS } from "./encodings.js";

const PATH = "/enhanced-stream";
const CLIENT_ID = /^[A-Za-z0-9._:@-]{1,128}$/;

/** The server's address, whose path may be left out. @param {string | URL} url */
export function addressOf(url) {
  const address = new URL(url);
  if (!/^wss?:$/.test(address.protocol)) {
    throw new TypeError(`url must be ws://HOST or wss://HOST, was ${url}`);
  }
  if (address.pathname === "/") address.pathname = PATH;
  return address;
}

/** All options, with the defaults of those that were left out. @param {ClientOptions} options */
export function settingsOf({ clientId, apiKey, resumeToken, WebSocket, format = "json", ...rest }) {
  if (clientId !== undefined && !CLIENT_ID.test(clientId)) {
    throw new TypeError("clientId must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -");
  }
  if (!FORMATS.includes(format)) {
    throw new TypeError(`format must be one of ${FORMATS.join(", ")}, was ${format}`);
  }
  const settings = {
    format,
    minDelayMs: 500,
    maxDelayMs: 20_000,
    requestTimeoutMs: 10_000,
    connectTimeoutMs: 10_000,
    silenceMs: 20_000,
    ...rest,
  };
  return { clientId, apiKey, resumeToken, WebSocket, settings };
}

/** The name is in a variable so that bundlers for browsers do not look for it. */
export async function importWs() {
  const name = "ws";
  return (await import(name)).WebSocket;
}
