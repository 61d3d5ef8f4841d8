// Chromium on pages of several origins, driven by JSON lines.
//
// in:  {"goto": URL}   {"other": ADDRESS}  an empty page of another origin, at a port of this address
//      {"cookie": TEXT}                    sets document.cookie
//      {"probe": ORIGIN}                   asks the server there in every way that sends cookies
//      {"sockets": ORIGIN, "token": TOKEN} opens WebSockets with the token as a subprotocol
//      {"renew": ORIGIN, "token": TOKEN}   opens an event stream by the cookie, and renews it with the token when it is told
//      {"texts": N}                        waits for so many events of that stream
// out: {"done": VALUE}

import { createServer } from "node:http";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const PATIENCE_MS = 60_000;
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const folder = await mkdtemp(join(tmpdir(), "tidings-browser-"));
const context = await chromium.launchPersistentContext(folder, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"],
  bypassCSP: true,
  handleSIGTERM: false,
});
const page = context.pages()[0] ?? (await context.newPage());
const other = createServer((_request, response) => response.end("<!doctype html><title>other</title>"));

// Runs in the page: what came of each way, as a status, "open" or "error".
async function probe(origin) {
  const topic = `${origin}/v1/topics/own/a`;
  const status = (request) => request.then(({ status }) => status).catch(() => "error");
  const socket = (url, protocols) =>
    new Promise((resolve) => {
      const socket = new WebSocket(url.replace("http", "ws"), protocols);
      socket.onopen = () => resolve("open") ?? socket.close();
      socket.onerror = () => resolve("error");
    });
  const stream = new Promise((resolve) => {
    const stream = new EventSource(`${topic}?as=sse`, { withCredentials: true });
    stream.onopen = () => resolve("open") ?? stream.close();
    stream.onerror = () => resolve("error") ?? stream.close();
  });
  const credentials = "include";
  const write = { method: "POST", body: "from a page", credentials };
  return {
    read: await status(fetch(`${topic}?as=json`, { credentials })),
    write: await status(fetch(topic, write)),
    blind: await status(fetch(topic, { ...write, mode: "no-cors" })),
    stream: await stream,
    raw: await socket(topic),
    tidings: await socket(`${origin}/v1/ws`, "tidings.v1"),
    mqtt: await socket(`${origin}/mqtt`, "mqtt"),
    stomp: await socket(`${origin}/stomp`, "v12.stomp"),
  };
}

// Runs in the page: the subprotocol that was chosen, and what came of a first request.
async function sockets([origin, token]) {
  const bearer = `bearer.${token}`;
  const connect = [0x10, 13, 0, 4, 0x4d, 0x51, 0x54, 0x54, 5, 2, 0, 0, 0, 0, 0];
  const ways = {
    raw: ["/v1/topics/own/a?latest", "tidings.raw", "hello"],
    tidings: ["/v1/ws", "tidings.v1", '{"op":"publish","topic":"own/a","data":"x"}'],
    mqtt: ["/mqtt", "mqtt", new Uint8Array(connect)],
    stomp: ["/stomp", "v12.stomp", "CONNECT\naccept-version:1.2\nhost:x\n\n\0"],
  };
  const found = {};
  for (const [name, [path, protocol, first]] of Object.entries(ways)) {
    found[name] = await new Promise((resolve) => {
      const socket = new WebSocket(origin.replace("http", "ws") + path, [protocol, bearer]);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => socket.send(first);
      socket.onerror = () => resolve("error");
      socket.onclose = ({ code }) => resolve(code);
      socket.onmessage = ({ data }) => {
        const text = typeof data === "string" ? data : [...new Uint8Array(data)].slice(0, 4).join();
        resolve([socket.protocol, text]);
      };
    });
  }
  return found;
}

// Runs in the page: what the server said to the renewal.
async function renew([origin, token]) {
  window.texts = [];
  const stream = new EventSource(`${origin}/v1/topics/own/a?as=sse`);
  stream.onmessage = ({ data }) => window.texts.push(data);
  stream.onerror = () => window.texts.push("broken");
  const { data } = await new Promise((resolve) => stream.addEventListener("expiring", resolve));
  const answer = await fetch(JSON.parse(data).renew, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}` },
  });
  return { told: JSON.parse(data), status: answer.status, answer: await answer.json() };
}

const COMMANDS = {
  goto: async (url) => void (await page.goto(url)),
  async other(address) {
    await new Promise((resolve) => other.listen(0, address, resolve));
    await page.goto(`http://${address}:${other.address().port}/`);
  },
  cookie: (text) => page.evaluate((text) => void (document.cookie = text), text),
  probe: (origin) => page.evaluate(probe, origin),
  sockets: (origin, { token }) => page.evaluate(sockets, [origin, token]),
  renew: (origin, { token }) => page.evaluate(renew, [origin, token]),
  async texts(count) {
    await page.waitForFunction((count) => window.texts.length >= count, count, { timeout: PATIENCE_MS });
    return page.evaluate(() => window.texts);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const name = Object.keys(COMMANDS).find((name) => name in command);
  say({ done: (await COMMANDS[name](command[name], command)) ?? true });
}
other.close();
await context.close();
await rm(folder, { recursive: true, force: true });
