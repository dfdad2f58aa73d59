/**
 * Requests that wait for their answers, in the order they were made.
 *
 * An answer is matched by request_id. A request lives until its answer, its error or its timeout,
 * whatever happens to connections meanwhile: every action may be repeated without harm.
 *
 * @typedef {import("./odin-client.d.ts").Json} Json
 */

import { RequestError } from "./errors.js";

export class Request {
  /** Whether it went out over the present connection. */
  isSent = false;

  /**
   * @param {string} id
   * @param {string} action
   * @param {string[]} stocks
   * @param {string | undefined} mode
   * @param {boolean} isUrgent a request of the client itself, over the present connection alone
   * @param {() => void} onSettled
   */
  constructor(id, action, stocks, mode, isUrgent, onSettled) {
    const body = { type: "request", action, request_id: id };
    const asked = stocks.length ? { ...body, stocks } : body;
    this.frame = JSON.stringify(mode === undefined ? asked : { ...asked, mode });
    this.isUrgent = isUrgent;
    this.answer = new Promise((/** @type {(answer: Json) => void} */ resolve, reject) => {
      this.resolve = (/** @type {Json} */ answer) => (onSettled(), resolve(answer));
      this.reject = (/** @type {Error} */ error) => (onSettled(), reject(error));
    });
  }
}

/** The open requests of a client. */
export class RequestTable {
  /** @type {Map<string, Request>} */ #open = new Map();
  #lastId = 0;

  /** @param {string} action @param {string[]} stocks @param {string | undefined} mode
   * @param {boolean} isUrgent */
  add(action, stocks, mode, isUrgent) {
    const id = String((this.#lastId += 1));
    const request = new Request(id, action, stocks, mode, isUrgent, () => this.#open.delete(id));
    this.#open.set(id, request);
    return request;
  }

  /** Settle the request that the message answers; false if it answers none.
   * @param {Json} message */
  take(message) {
    const request = this.#match(message);
    if (message.type === "error") request?.reject(requestError(message));
    else request?.resolve(message);
    return request !== undefined;
  }

  /** An error may come without the request_id of what the server did not read, such as one
   * request too many: then the oldest is meant, as answers come in order.
   * @param {Json} message */
  #match(message) {
    if (message.request_id !== undefined) return this.#open.get(String(message.request_id));
    if (message.type !== "error" || message.code === "session_taken_over") return undefined;
    return [...this.#open.values()].find((request) => request.isSent);
  }

  /** Those that have not gone out over the present connection. */
  unsent() {
    return [...this.#open.values()].filter((request) => !request.isSent);
  }

  /** Have every request sent again, except the client's own. @param {Error} lost */
  disconnected(lost) {
    for (const request of [...this.#open.values()]) {
      request.isSent = false;
      if (request.isUrgent) request.reject(lost);
    }
  }

  /** End every open request with the error. @param {Error} error */
  fail(error) {
    for (const request of [...this.#open.values()]) request.reject(error);
  }
}

/** @param {Json} message */
export const requestError = (message) =>
  new RequestError(message.code ?? "", message.message ?? "");
