// Chromium on the built-in page, driven by JSON lines.
//
// usage: browser.mjs URL [any-certificate | any-policy]
// in:  {"await": N}                 until both panes have N messages, or a minute is over
//      {"publish": TEXT, "event": TYPE}   by the form
//      {"live": true}               until both panes are connected
//      {"evaluate": EXPRESSION}     in the page
//      {"screenshot": FILE, "scheme": "dark", "width": N}
// out: {"sse": [{"id", "topic", "data"}..], "ws": [..], "problems": [..], "loads": N} after `await`; else {"done": VALUE}

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const PATIENCE_MS = 60_000;
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const folder = await mkdtemp(join(tmpdir(), "tidings-browser-"));
const context = await chromium.launchPersistentContext(folder, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ARGUMENTS,
  ignoreHTTPSErrors: process.argv[3] === "any-certificate",
  bypassCSP: process.argv[3] === "any-policy",
  handleSIGTERM: false,
});
const page = context.pages()[0] ?? (await context.newPage());

// What a page may do wrong without anybody noticing: a script error, a violation of the content security
// policy, a reload. A server that is down is not the page's fault.
const problems = [];
let loads = 0;
page.on("pageerror", (error) => problems.push(String(error)));
page.on("load", () => (loads += 1));
page.on("console", (message) => {
  if (message.type() === "error" && /Content Security Policy|Refused to/.test(message.text())) {
    problems.push(message.text());
  }
});
await page.goto(process.argv[2]);

const received = () =>
  page.evaluate(() => ({ sse: window.tidingsConsole.received.sse, ws: window.tidingsConsole.received.ws }));

const COMMANDS = {
  async await(count) {
    await page
      .waitForFunction(
        (count) => {
          const { sse, ws } = window.tidingsConsole.received;
          return sse.length >= count && ws.length >= count;
        },
        count,
        { timeout: PATIENCE_MS, polling: 100 },
      )
      // What has come so far says more than the timeout.
      .catch(() => {});
    return { ...(await received()), problems, loads };
  },
  async publish(text, { event }) {
    await page.fill("#publish-text", text);
    if (event) await page.fill("#publish-event", event);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await page.waitForSelector("#publish-outcome[data-outcome=ok]", { timeout: PATIENCE_MS });
    return { done: await page.textContent("#publish-outcome") };
  },
  async live() {
    for (const pane of ["sse", "ws"]) {
      await page.waitForSelector(`#pane-${pane} .state[data-state=live]`, { timeout: PATIENCE_MS });
    }
    return { done: true };
  },
  async evaluate(expression) {
    return { done: await page.evaluate(expression) };
  },
  async screenshot(file, { scheme = "light", width = 1280 }) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height: 900 });
    await page.screenshot({ path: file });
    return { done: true };
  },
};

say({ done: await page.title() });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const name = Object.keys(COMMANDS).find((name) => name in command);
  say(await COMMANDS[name](command[name], command));
}
await context.close();
await rm(folder, { recursive: true, force: true });
