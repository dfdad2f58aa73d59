/**
 * When to come back after a connection ended: the close codes and what each asks of a client.
 *
 * Full jitter (a random share of an exponentially growing delay) spreads the clients of a
 * restarted server; codes that a retry cannot cure end the client instead.
 */

export const CLIENT_CLOSED = 1000;
/** No close frame arrived: the link broke, or no connection could be made. */
export const ABNORMAL = 1006;
export const TAKEN_OVER = 4409;
/** A connection that lived so long starts the backoff anew; a shorter one counts as a failure. */
export const STEADY_AFTER_MS = 10_000;
const TERMINAL_CODES = new Set([1002, 1003, 1007, 1008, 1009, 4401, 4403, TAKEN_OVER]);
const RESTART_CODES = new Set([1001, 1012]);
const RESTART_SPREAD_MS = 5_000;
const LEAST_DELAY_MS = new Map([[1013, 5_000], [4429, 10_000]]);

/**
 * How long to wait before the next connection, in ms; null when coming back is of no use.
 * @param {number} code close code of the connection that ended
 * @param {number} failures connections in a row that ended or failed before this one
 * @param {number} minMs bound of the first delay
 * @param {number} maxMs bound of all delays
 * @param {() => number} [random]
 * @returns {number | null}
 */
export function reconnectDelayMs(code, failures, minMs, maxMs, random = Math.random) {
  if (TERMINAL_CODES.has(code)) return null;
  const share = random();
  if (RESTART_CODES.has(code) && failures === 0) return share * RESTART_SPREAD_MS;
  const backoff = Math.min(maxMs, minMs * 2 ** failures);
  return (LEAST_DELAY_MS.get(code) ?? 0) + share * backoff;
}

/** Whether an HTTP status before the upgrade says that trying again is of no use.
 * @param {number | undefined} status */
export const isRefusal = (status) =>
  status !== undefined && status >= 400 && status < 500 && ![408, 425, 429].includes(status);
