// A WebSocket client on the package `ws`, driven by JSON lines.
//
// in:  {"open": URL, "protocols": [..], "options": {..}}   {"send": TEXT}   {"sendBinary": BASE64}
//      {"ping": TEXT}   {"close": [CODE, REASON]}   {"pause": true}   {"pause": false}
// out: {"open": {"protocol", "extensions"}}   {"message": TEXT}   {"binary": BASE64}   {"pong": TEXT}
//      {"close": {"code", "reason"}}   {"refused": {"status", "headers", "body"}}   {"error": TEXT}

import { createInterface } from "node:readline";
import WebSocket from "ws";

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
let socket;

function open({ open: url, protocols = [], options = {} }) {
  socket = new WebSocket(url, protocols, options);
  socket.on("open", () => say({ open: { protocol: socket.protocol, extensions: socket.extensions } }));
  socket.on("message", (message, binary) =>
    say(binary ? { binary: message.toString("base64") } : { message: message.toString() }),
  );
  socket.on("ping", () => {});
  socket.on("pong", (payload) => say({ pong: payload.toString() }));
  socket.on("close", (code, reason) => say({ close: { code, reason: reason.toString() } }));
  socket.on("error", (error) => say({ error: error.message }));
  socket.on("unexpected-response", async (_request, response) => {
    let body = "";
    for await (const chunk of response) body += chunk;
    say({ refused: { status: response.statusCode, headers: response.headers, body } });
  });
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  if ("open" in command) open(command);
  else if ("send" in command) socket.send(command.send);
  else if ("sendBinary" in command) socket.send(Buffer.from(command.sendBinary, "base64"));
  else if ("ping" in command) socket.ping(command.ping);
  else if ("close" in command) socket.close(...command.close);
  else if ("pause" in command) command.pause ? socket.pause() : socket.resume();
  else throw new Error(`not a command: ${line}`);
});
