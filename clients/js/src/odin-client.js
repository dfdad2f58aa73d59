/**
 * Client of the Odin Streamer `/enhanced-stream` protocol, for browsers and Node alike.
 */

export { OdinClient } from "./client.js";
export * from "./errors.js";
export { OdinStreamerClient } from "./guide.js";
