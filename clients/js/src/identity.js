/**
 * What proves to the server who connects: an API key, and the token of the session. They go into
 * headers where the WebSocket class can send some, into a first message otherwise, never into the
 * address.
 *
 * @typedef {import("./odin-client.d.ts").Json} Json
 */

export class Identity {
  #apiKey;
  #isInHeaders = false;
  /** @type {string | undefined} */ resumeToken;

  /** @param {string | undefined} apiKey @param {string | undefined} resumeToken */
  constructor(apiKey, resumeToken) {
    this.#apiKey = apiKey;
    this.resumeToken = resumeToken;
  }

  /** Open a socket. Only that of `ws` can be terminated, and only it takes headers everywhere.
   * @param {any} WebSocket @param {string} address */
  connect(WebSocket, address) {
    /** @type {Record<string, string>} */ const headers = {};
    if (this.#apiKey !== undefined) headers["Authorization"] = `Bearer ${this.#apiKey}`;
    if (this.resumeToken !== undefined) headers["X-Resume-Token"] = this.resumeToken;
    this.#isInHeaders = typeof WebSocket.prototype?.terminate === "function";
    return this.#isInHeaders ? new WebSocket(address, [], { headers }) : new WebSocket(address);
  }

  /** Say who it is on a socket that has opened, if it did not say so before.
   * @param {{send: (text: string) => void}} socket */
  introduce(socket) {
    if (this.#isInHeaders || this.#apiKey === undefined) return;
    const message = { action: "authenticate", api_key: this.#apiKey, resume_token: this.resumeToken };
    socket.send(JSON.stringify(message));
  }
}

/** Whether an error is a server's word that it needs no key. @param {Json} message */
export const isNotNeeded = (message) => message.code === "authentication_not_needed";
