// A STOMP client over WebSocket on the package `@stomp/stompjs`, driven by JSON lines.
//
// in:  {"connect": {"url", "versions": ["1.2"..], "heartbeat": [OUT, IN], "reconnect": MS, "split": BYTES, "binary": BOOL, "ca": FILE, "cert": FILE, "key": FILE}}
//      {"subscribe": DESTINATION, "id": ID, "headers": {NAME: VALUE}, "resume": BOOL}   {"unsubscribe": ID, "headers"}
//      {"publish": DESTINATION, "base64": BYTES, "headers": {NAME: VALUE}, "transaction": NAME}
//      {"ack": N, "transaction": NAME}   {"nack": N, "headers"}   of the Nth message of the connection, from 0
//      {"begin": NAME}   {"commit": NAME}   {"abort": NAME}   {"break": true}   {"disconnect": true}
// out: {"connected": {"version", "protocol", "headers"}}   {"done": COMMAND}, which is the receipt
//      {"message": {"headers", "base64"}}   {"error": {"headers", "text"}}   {"closed": CODE}
//
// A subscription with `resume` is made again on every connection of a client that reconnects, after its last message.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Client, Versions } from "@stomp/stompjs";
import WebSocket from "ws";

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const resumed = new Map();
let messages = [];
let client;
let receipts = 0;

/// Headers with a receipt, which says that it is done.
function answered(done, headers = {}) {
  const receipt = `receipt-${receipts++}`;
  client.watchForReceipt(receipt, () => say({ done }));
  return { ...headers, receipt };
}

function subscribe(destination, id, headers) {
  const take = (message) => {
    messages.push(message);
    if (resumed.has(id)) resumed.get(id).after = message.headers["message-id"];
    const base64 = Buffer.from(message.binaryBody).toString("base64");
    say({ message: { headers: message.headers, base64 } });
  };
  client.subscribe(destination, take, answered("subscribe", { ...headers, id }));
}

function connect({ url, versions, heartbeat = [0, 0], reconnect = 0, split, binary = false, ca, cert, key, user, password }) {
  client = new Client({
    webSocketFactory: () =>
      new WebSocket(
        url,
        versions.map((version) => `v${version.replace(".", "")}.stomp`),
        ca && { ca: readFileSync(ca), cert: cert && readFileSync(cert), key: key && readFileSync(key) },
      ),
    connectHeaders: user === undefined ? {} : { login: user, passcode: password },
    stompVersions: new Versions(versions),
    heartbeatOutgoing: heartbeat[0],
    heartbeatIncoming: heartbeat[1],
    reconnectDelay: reconnect,
    splitLargeFrames: split !== undefined,
    maxWebSocketChunkSize: split,
    forceBinaryWSFrames: binary,
  });
  client.onConnect = ({ headers }) => {
    messages = [];
    say({ connected: { version: client.connectedVersion, protocol: client.webSocket.protocol, headers } });
    for (const [id, { destination, headers, after }] of resumed) {
      subscribe(destination, id, after === undefined ? headers : { ...headers, "x-after": after });
    }
  };
  client.onStompError = ({ headers, body }) => say({ error: { headers, text: body } });
  client.onWebSocketClose = ({ code }) => say({ closed: code });
  client.activate();
}

const COMMANDS = {
  connect,
  subscribe(destination, { id, headers = {}, resume = false }) {
    if (resume) resumed.set(id, { destination, headers });
    subscribe(destination, id, headers);
  },
  unsubscribe: (id, { headers }) => client.unsubscribe(id, answered("unsubscribe", headers)),
  publish(destination, { base64, headers = {}, transaction }) {
    const binaryBody = new Uint8Array(Buffer.from(base64, "base64"));
    const within = transaction === undefined ? headers : { ...headers, transaction };
    client.publish({ destination, binaryBody, headers: answered("publish", within) });
  },
  ack(n, { transaction }) {
    messages[n].ack(answered("ack", transaction === undefined ? {} : { transaction }));
  },
  nack: (n, { headers }) => messages[n].nack(answered("nack", headers)),
  begin(name) {
    client.begin(name);
    say({ done: "begin" });
  },
  // The package sends these without a receipt: the next answered command is behind them.
  commit(name) {
    client.commit(name);
    say({ done: "commit" });
  },
  abort(name) {
    client.abort(name);
    say({ done: "abort" });
  },
  break: () => client.webSocket.terminate(),
  disconnect: () => client.deactivate(),
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  const name = Object.keys(COMMANDS).find((name) => name in command);
  COMMANDS[name](command[name], command);
});
