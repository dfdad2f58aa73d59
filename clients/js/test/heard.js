import { EventEmitter, once } from "node:events";

/** Everything that was heard, and a way to wait for more. */
export class Heard extends EventEmitter {
  values = [];

  add = (value) => {
    this.values.push(value);
    this.emit("news");
  };

  async until(predicate) {
    const signal = AbortSignal.timeout(30_000);
    while (!predicate(this.values)) await once(this, "news", { signal });
  }

  count(value) {
    return this.values.filter((other) => other === value).length;
  }
}
