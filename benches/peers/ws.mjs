// `ws` from npm as a message server: who opens /sub subscribes, what comes to /pub goes to all of them.
//
// A short script on purpose: what is measured is the library's own sending. It compresses for whoever offers it, with the
// library's defaults.

import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [port, modules] = process.argv.slice(2);
const { WebSocketServer } = createRequire(join(resolve(modules), "none.js"))("ws");

const subscribers = new Set();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), backlog: 4096, perMessageDeflate: true });
server.on("connection", (socket, request) => {
  if (request.url === "/pub") {
    socket.on("message", (message) => {
      for (const subscriber of subscribers) subscriber.send(message, { binary: false });
    });
  } else {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  }
});
