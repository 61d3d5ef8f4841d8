// The built-in page: publishes, and shows the live messages of a topic over Server-Sent Events and over
// the WebSocket protocol `tidings.v1` side by side. Each pane resumes by itself after its last cursor, so a
// restart of the server loses nothing and shows nothing twice.

const ROWS_MAX = 300;
const RECEIVED_MAX = 10_000;
const BACKOFF_MS_MIN = 400;
const BACKOFF_MS_MAX = 15_000;
const PING_MS = 20_000;
const PONG_MS_MAX = 10_000;
// Events of the server's own, and the one that needs no name.
const OWN_EVENTS = new Set(["message", "gap", "drain", "lost"]);

const element = (id) => document.getElementById(id);

// A topic is the rest of the path with its slashes kept. `encodeURIComponent` leaves the apostrophe, which
// would end the quotes of the shell commands.
const path = (topic) =>
  `/v1/topics/${topic.split("/").map((level) => encodeURIComponent(level).replaceAll("'", "%27")).join("/")}`;

// What the address bar says: `#topic=demo&after=earliest`, or `&last=50`.
function parseFragment(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const topic = given.get("topic") || "demo";
  const after = given.get("after");
  const last = Number.parseInt(given.get("last") ?? "", 10);
  if (after) return { topic, start: { after } };
  return { topic, start: { last: last > 0 ? last : 50 } };
}

function fragmentOf(topic, choice) {
  const fragment = new URLSearchParams({ topic });
  if (choice.startsWith("last:")) fragment.set("last", choice.slice("last:".length));
  else fragment.set("after", choice);
  return `#${fragment}`;
}

// A wait between two attempts: it doubles from one to the next, and a random half of it is left out, so
// that many pages do not come back at one moment.
class Backoff {
  attempts = 0;

  next() {
    const ceiling = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.attempts);
    this.attempts += 1;
    return ceiling / 2 + (Math.random() * ceiling) / 2;
  }

  reset() {
    this.attempts = 0;
  }
}

// One side: what it received, and how it is shown. Rows are drawn once a frame and only the newest are
// kept, so that a flood costs no more than a trickle.
class Pane {
  received = [];
  #pending = [];
  #drawing = false;
  #counts = { messages: 0, gaps: 0, reconnects: 0 };
  #cursor = null;

  constructor(root, title) {
    root.append(element("pane-template").content.cloneNode(true));
    const heading = root.querySelector("h3");
    heading.textContent = title;
    heading.id = `${root.id}-title`;
    this.root = root;
    this.rows = root.querySelector(".rows");
    this.rows.setAttribute("aria-label", `Messages over ${title}`);
    root.querySelector(".clear").addEventListener("click", () => this.clearRows());
  }

  get cursor() {
    return this.#cursor;
  }

  state(name, text) {
    const state = this.root.querySelector(".state");
    state.dataset.state = name;
    state.querySelector(".state-text").textContent = text ?? name;
  }

  clearRows() {
    this.#pending.length = 0;
    this.rows.replaceChildren();
  }

  restart() {
    this.clearRows();
    this.received.length = 0;
    this.#counts = { messages: 0, gaps: 0, reconnects: 0 };
    this.#cursor = null;
    this.#draw();
  }

  reconnects() {
    this.#counts.reconnects += 1;
    this.#draw();
  }

  // A position without a message: where a subscription starts, or goes on after a gap.
  moveTo(cursor) {
    if (cursor) this.#cursor = cursor;
    this.#draw();
  }

  message(message) {
    const data = message.data ?? `base64: ${message.base64}`;
    this.#counts.messages += 1;
    this.#cursor = message.id;
    this.received.push({ id: message.id, topic: message.topic, data });
    if (this.received.length > RECEIVED_MAX) this.received.shift();
    this.#show({ ...message, data: typeof data === "string" ? data : JSON.stringify(data) });
  }

  // Forgets what came after a message, or everything, so that it can be received again.
  rewindTo(id) {
    const at = this.received.findLastIndex((message) => message.id === id);
    this.#drawNow();
    this.#counts.messages -= this.received.length - (at + 1);
    this.received.length = at + 1;
    while (this.rows.lastElementChild && this.rows.lastElementChild.dataset.id !== id) {
      this.rows.lastElementChild.remove();
    }
    this.#cursor = at < 0 ? null : id;
    this.#draw();
  }

  has(id) {
    return this.received.some((message) => message.id === id);
  }

  gap(gap) {
    this.#counts.gaps += 1;
    // `tidings.v1` names it `cursor`, an event stream `resume`.
    const place = gap.cursor ?? gap.resume;
    if (place) this.#cursor = place;
    this.#show({ gap });
  }

  #show(entry) {
    this.#pending.push(entry);
    if (this.#pending.length > ROWS_MAX) this.#pending.shift();
    this.#draw();
  }

  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#drawNow();
    });
  }

  #drawNow() {
    for (const name of ["gaps", "reconnects"]) {
      this.root.querySelector(`.${name}`).textContent = this.#counts[name].toLocaleString();
    }
    this.root.querySelector(".count").textContent = this.#counts.messages.toLocaleString();
    this.root.querySelector(".cursor").textContent = this.#cursor ?? "none yet";
    if (this.#pending.length === 0) return;
    const { scrollHeight, scrollTop, clientHeight } = this.rows;
    const following = scrollHeight - scrollTop - clientHeight < 40;
    this.rows.append(...this.#pending.map((entry) => (entry.gap ? gapRow(entry.gap) : messageRow(entry))));
    this.#pending.length = 0;
    while (this.rows.childElementCount > ROWS_MAX) this.rows.firstElementChild.remove();
    if (following) this.rows.scrollTop = this.rows.scrollHeight;
  }
}

function messageRow({ id, topic, time, event, data }) {
  const row = document.createElement("li");
  row.className = "row";
  row.dataset.id = id;
  const when = document.createElement("time");
  const date = new Date(time);
  when.dateTime = Number.isNaN(date.getTime()) ? "" : date.toISOString();
  when.textContent = when.dateTime
    ? `${date.toLocaleTimeString([], { hour12: false })}.${String(date.getMilliseconds()).padStart(3, "0")}`
    : "";
  const body = document.createElement("div");
  const where = document.createElement("span");
  where.className = "where";
  // With one exact topic on both panes its name on every row would only be noise.
  where.textContent = topic === element("watch-topic").value ? "" : topic;
  if (event && event !== "message") {
    const type = document.createElement("span");
    type.className = "type";
    type.textContent = event;
    where.append(type);
  }
  const text = document.createElement("pre");
  text.textContent = data;
  if (where.hasChildNodes()) body.append(where);
  body.append(text);
  row.append(when, body);
  return row;
}

const GAP_TEXTS = {
  retention: "Older messages were removed before this page could read them.",
  "unknown-cursor": "The position to resume from is not known to this server.",
  "live-only": "This topic keeps no messages: what passed in between is gone.",
  restart: "The server was restarted and kept these messages only in memory.",
};

function gapRow(gap) {
  const row = document.createElement("li");
  row.className = "row gap";
  row.textContent = `Gap: ${GAP_TEXTS[gap.reason] ?? gap.reason}`;
  return row;
}

// Server-Sent Events. The browser reconnects by itself after a broken connection and sends the last id; it
// gives up for good on any status but 200, and then this comes back with the cursor in the address.
class EventStream {
  #source = null;
  #timer = 0;
  #backoff = new Backoff();
  #types = new Set();

  constructor(pane, topic, start) {
    this.pane = pane;
    this.topic = topic;
    this.start = start;
    this.#open();
  }

  #open() {
    const from = this.pane.cursor ? { after: this.pane.cursor } : this.start;
    const query = new URLSearchParams({ ...from, format: "json" });
    this.pane.state("connecting");
    const source = new EventSource(`${path(this.topic)}?${query}`);
    this.#source = source;
    source.addEventListener("open", () => {
      this.#backoff.reset();
      this.pane.state("live");
    });
    source.addEventListener("gap", (event) => this.pane.gap(JSON.parse(event.data)));
    source.addEventListener("drain", () => this.pane.state("reconnecting", "server restarting"));
    source.addEventListener("message", (event) => this.#message(event));
    for (const type of this.#types) source.addEventListener(type, (event) => this.#message(event));
    source.addEventListener("error", () => this.#failed(source));
  }

  #message(event) {
    this.pane.message({ event: event.type, ...JSON.parse(event.data), id: event.lastEventId });
  }

  #failed(source) {
    if (source !== this.#source) return;
    this.pane.reconnects();
    if (source.readyState === EventSource.CONNECTING) {
      this.pane.state("reconnecting");
      return;
    }
    source.close();
    const wait = this.#backoff.next();
    this.pane.state("refused", `refused, again in ${(wait / 1000).toFixed(1)} s`);
    this.#timer = setTimeout(() => this.#open(), wait);
  }

  // The browser hands an event out only to who listens to its type by name. The WebSocket shows every type,
  // so a type that it shows first is learned from it: `cursor` is the position ahead of that message, and
  // `before` the message ahead of it. What went by unheard since is then asked for again.
  learn(type, cursor, before) {
    if (!type || OWN_EVENTS.has(type) || this.#types.has(type)) return;
    this.#types.add(type);
    this.#source?.addEventListener(type, (event) => this.#message(event));
    if (!cursor || (before && !this.pane.has(before))) return;
    this.pane.rewindTo(before);
    this.pane.moveTo(cursor);
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#open();
  }

  close() {
    clearTimeout(this.#timer);
    this.#source.close();
    this.#source = null;
  }
}

// The JSON protocol `tidings.v1`.
class Socket {
  #socket = null;
  #timer = 0;
  #pinging = 0;
  #pong = 0;
  #request = 0;
  #subscription = 0;
  #reconnectMs = null;
  #backoff = new Backoff();
  #closed = false;

  constructor(pane, topic, start, learned) {
    this.pane = pane;
    this.topic = topic;
    this.start = start;
    this.learned = learned;
    this.#open();
  }

  #open() {
    this.pane.state("connecting");
    const url = new URL("/v1/ws", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, ["tidings.v1"]);
    this.#socket = socket;
    this.#reconnectMs = null;
    socket.addEventListener("open", () => {
      const from = this.pane.cursor ? { after: this.pane.cursor } : this.start;
      this.#subscription = this.#send({ op: "subscribe", topic: this.topic, ...from });
      this.#pinging = setInterval(() => this.#ping(), PING_MS);
    });
    socket.addEventListener("message", (event) => this.#receive(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => this.#gone(socket, event));
  }

  #send(request) {
    this.#request += 1;
    this.#socket.send(JSON.stringify({ ...request, id: this.#request }));
    return this.#request;
  }

  // A page cannot see WebSocket pings, and a dead network shows no error: ask, and give up on silence.
  #ping() {
    this.#send({ op: "ping" });
    clearTimeout(this.#pong);
    const socket = this.#socket;
    this.#pong = setTimeout(() => this.#gone(socket, { code: 1006 }), PONG_MS_MAX);
  }

  #receive(frame) {
    clearTimeout(this.#pong);
    switch (frame.op) {
      case "ok":
        if (frame.id !== this.#subscription) break;
        this.#backoff.reset();
        this.pane.state("live");
        if (!this.pane.cursor) this.pane.moveTo(frame.cursor);
        break;
      case "message":
        this.learned(frame.event, this.pane.cursor, this.pane.received.at(-1)?.id);
        this.pane.message(frame);
        break;
      case "gap":
        this.pane.gap(frame);
        break;
      case "drain":
        this.#reconnectMs = frame.reconnect_ms;
        this.pane.state("reconnecting", "server restarting");
        break;
      case "error":
        this.pane.state("refused", frame.message ?? frame.code);
        break;
    }
  }

  #gone(socket, { code }) {
    if (socket !== this.#socket || this.#closed) return;
    this.#stop();
    this.pane.reconnects();
    const wait = this.#reconnectMs ?? this.#backoff.next();
    this.pane.state("reconnecting", code === 1012 ? "server restarting" : "reconnecting");
    this.#timer = setTimeout(() => this.#open(), wait);
  }

  #stop() {
    clearInterval(this.#pinging);
    clearTimeout(this.#pong);
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  close() {
    this.#closed = true;
    this.#stop();
  }
}

const panes = {
  sse: new Pane(element("pane-sse"), "Server-Sent Events"),
  ws: new Pane(element("pane-ws"), "WebSocket"),
};
let streams = [];
let watched = null;

function showCommands(topic) {
  const { origin } = location;
  const published = /[+#]/.test(topic) ? element("publish-topic").value : topic;
  element("curl-publish").textContent =
    `curl -d 'hello' -H 'Content-Type: text/plain' '${origin}${path(published)}'`;
  element("curl-subscribe").textContent =
    `curl -N -H 'Accept: text/event-stream' '${origin}${path(topic)}?after=earliest'`;
}

function watch() {
  const { topic, start } = parseFragment(location.hash);
  streams.forEach((stream) => stream.close());
  for (const pane of Object.values(panes)) pane.restart();
  element("watch-topic").value = topic;
  if (!/[+#]/.test(topic)) element("publish-topic").value = topic;
  showStart(start);
  showCommands(topic);
  const stream = new EventStream(panes.sse, topic, start);
  const socket = new Socket(panes.ws, topic, start, (...message) => stream.learn(...message));
  streams = [stream, socket];
  watched = stream;
}

// A deep link may start at a cursor or another count, which the list of choices then shows as well.
function showStart(start) {
  const choices = element("watch-after");
  const choice = start.after ?? `last:${start.last}`;
  if (![...choices.options].some((option) => option.value === choice)) {
    choices.add(new Option(start.after ? `after ${start.after}` : `newest ${start.last}`, choice));
  }
  choices.value = choice;
}

async function publish() {
  const outcome = element("publish-outcome");
  const event = element("publish-event").value.trim();
  const headers = { "Content-Type": "text/plain; charset=utf-8" };
  if (event) {
    headers["Tidings-Event"] = event;
    watched.learn(event);
  }
  const request = {
    method: "POST",
    headers,
    body: element("publish-text").value,
  };
  try {
    const response = await fetch(path(element("publish-topic").value), request);
    const answer = await response.json();
    outcome.dataset.outcome = response.ok ? "ok" : "refused";
    outcome.textContent = response.ok ? `Stored as ${answer.id}` : (answer.detail ?? answer.title);
  } catch {
    outcome.dataset.outcome = "refused";
    outcome.textContent = "The server could not be reached: try again.";
  }
}

async function copy(button) {
  const source = element(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    // Without permission, or on a plain HTTP address: leave the text selected, ready to copy by hand.
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

element("host").textContent = location.host;
element("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  publish();
});
element("publish-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    publish();
  }
});
element("publish-topic").addEventListener("input", () => showCommands(element("watch-topic").value));
element("watch").addEventListener("submit", (event) => {
  event.preventDefault();
  const fragment = fragmentOf(element("watch-topic").value, element("watch-after").value);
  if (fragment === location.hash) watch();
  else location.hash = fragment;
});
addEventListener("hashchange", watch);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button));
}

// Read-only, for scripts and tests: what each pane received, oldest first.
Object.defineProperty(window, "tidingsConsole", {
  value: Object.freeze({
    received: Object.freeze({
      get sse() {
        return panes.sse.received.slice();
      },
      get ws() {
        return panes.ws.received.slice();
      },
    }),
    get cursors() {
      return { sse: panes.sse.cursor, ws: panes.ws.cursor };
    },
  }),
});

watch();
