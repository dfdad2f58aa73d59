/** The odin server in a process of its own, on a free port, with a market that is always open. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const CHECKOUT = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const VENV_PYTHON = join(CHECKOUT, ".venv/bin/python");
export const PYTHON = process.env.ODIN_PYTHON ?? (existsSync(VENV_PYTHON) ? VENV_PYTHON : "python3");

/** Why there is no real server to test against; false if there is one. */
export function missing() {
  const { status } = spawnSync(PYTHON, ["-m", "odin", "--help"], { cwd: CHECKOUT });
  return status === 0 ? false : `${PYTHON} -m odin does not run here (set ODIN_PYTHON)`;
}

export class RealServer {
  #folder = mkdtempSync(join(tmpdir(), "odin-"));
  #process = null;
  database = join(this.#folder, "odin.db");
  port = 0;
  url = "";

  /** @param {Record<string, string>} [env] */
  static async start(env = {}) {
    const server = new RealServer();
    server.env = env;
    await server.start();
    return server;
  }

  /** Start it, on the same port and database as before; resolves when it listens. */
  async start() {
    const command = ["-m", "odin", "demo", "--port", String(this.port), "--db", this.database];
    this.#process = spawn(PYTHON, command, {
      cwd: CHECKOUT,
      env: { ...process.env, ...this.env },
      stdio: ["ignore", "pipe", "ignore"],
    });
    const lines = createInterface({ input: this.#process.stdout });
    const [line] = await Promise.race([once(lines, "line"), once(this.#process, "exit")]);
    const found = /ws:\/\/\S+:(\d+)\/\S+/.exec(line);
    if (!found) throw new Error(`the server began with ${JSON.stringify(line)}`);
    lines.on("line", () => {}); // read on, or its pipe fills
    [this.url, this.port] = [found[0], Number(found[1])];
  }

  /** Stop it in order, and remove its files. */
  async stop() {
    await this.#end("SIGTERM");
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Stop it as a power cut would. */
  async kill() {
    await this.#end("SIGKILL");
  }

  /** Have it do nothing at all, its connections open, until it is thawed. */
  freeze() {
    this.#process.kill("SIGSTOP");
  }

  /** Let a frozen server go on. */
  thaw() {
    this.#process.kill("SIGCONT");
  }

  async #end(signal) {
    const child = this.#process;
    this.#process = null;
    if (!child || child.exitCode !== null) return;
    child.kill(signal);
    await once(child, "exit");
  }
}
