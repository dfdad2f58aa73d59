/** API keys and resume tokens, against the real server. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, afterEach, before, describe, test } from "node:test";
import { WebSocket as Ws } from "ws";
import { ConnectFailed, ConnectionClosed, OdinClient } from "../src/odin-client.js";
import { Heard } from "./heard.js";
import { CHECKOUT, PYTHON, RealServer, missing } from "./real-server.js";

const skip = missing();

/** A WebSocket like a browser's: it takes no headers and cannot be terminated. */
class PageWebSocket {
  constructor(address, ...more) {
    assert.equal(more.length, 0);
    const socket = new Ws(address);
    return new Proxy(socket, {
      get(target, name) {
        const value = target[name];
        return typeof value === "function" ? value.bind(target) : value;
      },
      set: (target, name, value) => Reflect.set(target, name, value, target),
    });
  }
}

describe("authentication", { skip }, () => {
  let odin;
  let key;
  const clients = [];
  const keys = (...words) =>
    spawnSync(PYTHON, ["-m", "odin", "keys", ...words, "--db", odin.database], { cwd: CHECKOUT })
      .stdout.toString()
      .trim();

  before(async () => {
    odin = await RealServer.start({
      ODIN_AUTH__MODE: "required",
      ODIN_AUTH__REQUIRE_RESUME_TOKEN: "true",
    });
    key = keys("create", "test");
  });
  after(() => odin.stop());
  afterEach(() => clients.splice(0).forEach((client) => client.close()));

  function make(options) {
    const client = new OdinClient(odin.url, { minDelayMs: 10, maxDelayMs: 50, ...options });
    clients.push(client);
    return client;
  }

  for (const [name, WebSocket] of [["ws", Ws], ["a browser's socket", PageWebSocket]]) {
    const clientId = name.replaceAll(/\W/g, "_");

    test(`${name} is served with a key, and again after a crash`, async () => {
      const client = make({ clientId, apiKey: key, WebSocket });
      const [states, errors] = [new Heard(), new Heard()];
      client.on("state", states.add);
      await client.connect();
      client.on("error", errors.add);
      assert.equal(client.clientId, clientId);
      await client.subscribe("SBIN");
      await odin.kill();
      await odin.start();
      await states.until((values) => values.filter((s) => s === "connected").length === 2);
      assert.deepEqual((await client.subscriptions()).map((s) => s.symbol), ["SBIN"]);
      assert.match(client.resumeToken, /^odin_resume_/);

      const thief = make({ clientId, apiKey: key, WebSocket });
      await assert.rejects(thief.connect(), (error) => {
        assert.ok(error instanceof ConnectionClosed);
        assert.equal(error.code, 4403);
        return true;
      });
      assert.equal(client.state, "connected");

      const { resumeToken } = client;
      client.close();
      const again = make({ clientId, apiKey: key, resumeToken, WebSocket });
      await again.connect();
      assert.deepEqual((await again.subscriptions()).map((s) => s.symbol), ["SBIN"]);
    });

    test(`${name} is refused with a wrong key`, async () => {
      const client = make({ clientId: "x", apiKey: `${key}x`, WebSocket });
      await assert.rejects(client.connect(), (error) => {
        if (WebSocket === Ws) assert.equal(error.status, 401);
        else assert.equal(error.code, 4401);
        assert.ok(error instanceof (WebSocket === Ws ? ConnectFailed : ConnectionClosed));
        assert.ok(!error.message.includes(key));
        return true;
      });
    });
  }

  test("a key that is not needed is no error", async () => {
    const open = await RealServer.start();
    const client = new OdinClient(open.url, { clientId: "me", apiKey: key, WebSocket: PageWebSocket });
    const errors = new Heard();
    client.on("error", errors.add);
    await client.connect();
    await client.ping();
    client.close();
    await open.stop();
    assert.deepEqual(errors.values, []);
  });
});
