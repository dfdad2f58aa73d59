// ws for Node: one send() of a shared buffer for each client and message, no compression.
import { createRequire } from "node:module";
import { REPLY, TOPICS, encode, schedule, topicsOf } from "./source.mjs";

// The packages are installed in a folder of the benchmark's own, which the runner names.
const { WebSocketServer } = createRequire(process.env.BENCH_NODE_MODULES + "/")("ws");
const routes = Array.from({ length: TOPICS }, () => new Set());
const server = new WebSocketServer({ port: 0, host: "127.0.0.1", perMessageDeflate: false, backlog: 4096 });
server.on("connection", (socket) => {
  let mine = [];
  socket.on("message", (text) => {
    mine = mine.concat(topicsOf(String(text)));
    for (const topic of mine) routes[topic].add(socket);
    socket.send(REPLY);
  });
  socket.on("error", () => {});
  socket.on("close", () => mine.forEach((topic) => routes[topic].delete(socket)));
});
server.on("listening", () => console.log(`ready ${server.address().port}`));
schedule((n) => {
  const message = Buffer.from(encode(n));
  for (const socket of routes[n % TOPICS]) socket.send(message, { binary: false });
});
