// Bun: its own topics, one server.publish() a message, no compression.
import { FIRST_TOKEN, REPLY, TOPICS, encode, schedule, topicsOf } from "./source.mjs";

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request, server) {
    return server.upgrade(request) ? undefined : new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    backpressureLimit: 64 * 1024 * 1024,
    maxPayloadLength: 1024 * 1024,
    message(socket, text) {
      for (const topic of topicsOf(text)) socket.subscribe(String(FIRST_TOKEN + topic));
      socket.send(REPLY);
    },
  },
});
console.log(`ready ${server.port}`);
schedule((n) => server.publish(String(FIRST_TOKEN + (n % TOPICS)), encode(n)));
