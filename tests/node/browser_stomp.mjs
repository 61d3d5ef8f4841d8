// Chromium with the browser bundle of `@stomp/stompjs`, on a page of the server's origin, driven by JSON lines.
//
// usage: browser_stomp.mjs URL VERSION
// in:  {"subscribe": DESTINATION}   {"publish": DESTINATION, "text": TEXT}   {"await": N}
// out: {"done": VALUE}; after `await` the messages as [[DESTINATION, TEXT]..]

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
await page.addScriptTag({ content: await readFile("node_modules/@stomp/stompjs/bundles/stomp.umd.min.js", "utf8") });
const version = await page.evaluate(
  ([brokerURL, version]) =>
    new Promise((resolve, reject) => {
      const { Client, Versions } = window.StompJs;
      window.received = [];
      window.client = new Client({ brokerURL, reconnectDelay: 0, stompVersions: new Versions([version]) });
      window.client.onConnect = () => resolve(window.client.connectedVersion);
      window.client.onStompError = (frame) => reject(new Error(frame.body));
      window.client.onWebSocketClose = ({ code }) => reject(new Error(`closed: ${code}`));
      // Sends a frame, and waits until the server has answered it.
      window.answered = (send) =>
        new Promise((resolve) => {
          const receipt = crypto.getRandomValues(new Uint32Array(1)).join();
          window.client.watchForReceipt(receipt, () => resolve(true));
          send(receipt);
        });
      window.client.activate();
    }),
  [`ws://${url.host}/stomp`, process.argv[3]],
);

const COMMANDS = {
  subscribe: (destination) =>
    page.evaluate((destination) => {
      const take = ({ headers, body }) => window.received.push([headers.destination, body]);
      return window.answered((receipt) => window.client.subscribe(destination, take, { receipt }));
    }, destination),
  publish: (destination, { text }) =>
    page.evaluate(
      ([destination, body]) =>
        window.answered((receipt) => window.client.publish({ destination, body, headers: { receipt } })),
      [destination, text],
    ),
  async await(count) {
    await page.waitForFunction((count) => window.received.length >= count, count, { timeout: PATIENCE_MS });
    return page.evaluate(() => window.received);
  },
};

say({ done: version });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const name = Object.keys(COMMANDS).find((name) => name in command);
  say({ done: (await COMMANDS[name](command[name], command)) ?? true });
}
await context.close();
await rm(folder, { recursive: true, force: true });
