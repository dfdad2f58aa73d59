/**
 * What can go wrong, as types. All are OdinError.
 *
 * @typedef {import("./odin-client.d.ts").State} State
 */

/** Base of all errors of this module. */
export class OdinError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** The server refused a request; `code` is of its catalogue ("too_many_stocks"). */
export class RequestError extends OdinError {
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** A request had no answer in time, although it was repeated after reconnects. */
export class RequestTimeout extends OdinError {
  /** @param {string} action @param {number} ms @param {State} state */
  constructor(action, ms, state) {
    super(`${action} had no answer within ${ms} ms (the client was ${state})`);
    this.action = action;
  }
}

/** No connection: the address refused (`status` is its HTTP status, where the platform tells it)
 * or could not be reached. */
export class ConnectFailed extends OdinError {
  /** @param {string} message @param {number} [status] */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The connection ended. `code` is the WebSocket close code, 1000 a close() of this client. */
export class ConnectionClosed extends OdinError {
  /** @param {number} code @param {string} reason */
  constructor(code, reason) {
    super(`the connection was closed: ${code} ${reason}`.trimEnd());
    this.code = code;
    this.reason = reason;
  }
}

/** Another connection with this client_id took the session. Never reconnected automatically: two
 * programs would fight for ever. */
export class TakenOver extends ConnectionClosed {}
