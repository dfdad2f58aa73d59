/**
 * A reader of MessagePack: all types but ext (and so timestamps), which have no equal in JSON and are
 * refused. Integers beyond 2^53 become the nearest number, as JSON.parse has it; bin becomes a
 * Uint8Array.
 */

import { OdinError } from "./errors.js";

/** Far more than any message has; the stack bears it everywhere. */
const MAX_DEPTH = 100;
// Without ignoreBOM a text that begins with U+FEFF would lose it.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * The one value that the bytes are. Throws OdinError for anything else.
 * @param {ArrayBuffer} buffer
 * @returns {any}
 */
export function decodeMsgpack(buffer) {
  const reader = new Reader(buffer);
  const value = reader.read(0);
  if (!reader.isAtEnd) throw new OdinError("MessagePack with bytes after its end");
  return value;
}

class Reader {
  #view;
  #bytes;
  #at = 0;

  /** @param {ArrayBuffer} buffer */
  constructor(buffer) {
    this.#view = new DataView(buffer);
    this.#bytes = new Uint8Array(buffer);
  }

  get isAtEnd() {
    return this.#at === this.#bytes.length;
  }

  /** @param {number} depth @returns {any} */
  read(depth) {
    const view = this.#view;
    const tag = view.getUint8(this.#skip(1));
    if (tag < 0x80) return tag;
    if (tag < 0x90) return this.#map(tag & 0x0f, depth);
    if (tag < 0xa0) return this.#array(tag & 0x0f, depth);
    if (tag < 0xc0) return this.#text(tag & 0x1f);
    if (tag >= 0xe0) return tag - 0x100;
    switch (tag) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.#bin(view.getUint8(this.#skip(1)));
      case 0xc5: return this.#bin(view.getUint16(this.#skip(2)));
      case 0xc6: return this.#bin(view.getUint32(this.#skip(4)));
      case 0xca: return view.getFloat32(this.#skip(4));
      case 0xcb: return view.getFloat64(this.#skip(8));
      case 0xcc: return view.getUint8(this.#skip(1));
      case 0xcd: return view.getUint16(this.#skip(2));
      case 0xce: return view.getUint32(this.#skip(4));
      case 0xcf: return Number(view.getBigUint64(this.#skip(8)));
      case 0xd0: return view.getInt8(this.#skip(1));
      case 0xd1: return view.getInt16(this.#skip(2));
      case 0xd2: return view.getInt32(this.#skip(4));
      case 0xd3: return Number(view.getBigInt64(this.#skip(8)));
      case 0xd9: return this.#text(view.getUint8(this.#skip(1)));
      case 0xda: return this.#text(view.getUint16(this.#skip(2)));
      case 0xdb: return this.#text(view.getUint32(this.#skip(4)));
      case 0xdc: return this.#array(view.getUint16(this.#skip(2)), depth);
      case 0xdd: return this.#array(view.getUint32(this.#skip(4)), depth);
      case 0xde: return this.#map(view.getUint16(this.#skip(2)), depth);
      case 0xdf: return this.#map(view.getUint32(this.#skip(4)), depth);
      default: throw new OdinError(`MessagePack of the unknown type 0x${tag.toString(16)}`);
    }
  }

  /** Go past the next bytes; returns where they begin. @param {number} size */
  #skip(size) {
    const start = this.#at;
    this.#at += size;
    if (this.#at > this.#bytes.length) throw new OdinError("MessagePack that was cut short");
    return start;
  }

  /** @param {number} size */
  #bin(size) {
    const start = this.#skip(size);
    return this.#bytes.slice(start, start + size);
  }

  /** @param {number} size */
  #text(size) {
    const start = this.#skip(size);
    try {
      return utf8.decode(this.#bytes.subarray(start, start + size));
    } catch {
      throw new OdinError("MessagePack with a text that is not UTF-8");
    }
  }

  /** @param {number} size @param {number} depth */
  #array(size, depth) {
    const inside = deeper(depth);
    const values = [];
    for (let i = 0; i < size; i += 1) values.push(this.read(inside));
    return values;
  }

  /** @param {number} size @param {number} depth */
  #map(size, depth) {
    const inside = deeper(depth);
    /** @type {Record<string, any>} */ const map = {};
    for (let i = 0; i < size; i += 1) {
      const key = this.read(inside);
      // "__proto__" would set the prototype instead of a property.
      if (typeof key !== "string" || key === "__proto__") {
        throw new OdinError("MessagePack with a key that cannot be one");
      }
      map[key] = this.read(inside);
    }
    return map;
  }
}

/** @param {number} depth */
function deeper(depth) {
  if (depth === MAX_DEPTH) throw new OdinError(`MessagePack nested more than ${MAX_DEPTH} deep`);
  return depth + 1;
}
