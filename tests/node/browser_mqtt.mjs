// Chromium with the browser bundle of the package `mqtt`, on a page of the server's origin, driven by JSON lines.
//
// usage: browser_mqtt.mjs URL
// in:  {"subscribe": FILTER}   {"publish": TOPIC, "text": TEXT}   {"await": N}
// out: {"done": VALUE}; after `await` the messages as [[TOPIC, TEXT]..]

import { mkdtemp, readFile, rm } from "node:fs/promises";
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
const url = new URL(process.argv[2]);

// Any page of the server's origin will do: an application behind the same proxy would be one.
await page.goto(`${url.origin}/healthz`);
await page.addScriptTag({ content: await readFile("node_modules/mqtt/dist/mqtt.min.js", "utf8") });
await page.evaluate(async (url) => {
  window.received = [];
  window.client = await window.mqtt.connectAsync(url, { protocolVersion: 5, reconnectPeriod: 0 });
  window.client.on("message", (topic, payload) => window.received.push([topic, payload.toString()]));
}, `ws://${url.host}/mqtt`);

const COMMANDS = {
  subscribe: (filter) =>
    page.evaluate(async (filter) => (await window.client.subscribeAsync(filter, { qos: 1 }))[0].qos, filter),
  publish: (topic, { text }) =>
    page.evaluate(async ([topic, text]) => void (await window.client.publishAsync(topic, text, { qos: 2 })), [topic, text]),
  async await(count) {
    await page.waitForFunction((count) => window.received.length >= count, count, { timeout: PATIENCE_MS });
    return page.evaluate(() => window.received);
  },
};

say({ done: page.url() });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const name = Object.keys(COMMANDS).find((name) => name in command);
  say({ done: (await COMMANDS[name](command[name], command)) ?? true });
}
await context.close();
await rm(folder, { recursive: true, force: true });
