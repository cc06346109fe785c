// The page as a whole: it asks once how everything is, and is told from then on
// what changes. While nobody looks at it, it is told nothing: a browser has
// six connections to one address for all its windows.

import { Refused, below, follow, get } from "./api.js";
import { Card } from "./card.js";
import { count, lasting, moment, percent, size } from "./words.js";

const kinds = ["starting", "opened", "start_failed", "shutdown", "closed", "held", "released", "reloaded", "reload_failed", "stopping"];
const crowdTime = 60; // ms in which a crowd of events is answered by one question
const againLeast = 1000, againMost = 15000; // ms until the next try

const byId = (id) => document.getElementById(id);
const cards = new Map();
let skew = 0; // tiproxy's clock is that many ms ahead
let source = null;
let again = againLeast;
let timer = 0;
const due = new Set(); // names of services to be asked for, "" = everything

const clock = () => Date.now() + skew;

function link(is, text) {
  const e = byId("link");
  e.dataset.is = is;
  e.querySelector(".text").textContent = text;
}

// connect asks for everything and follows the events. It is called again when
// they end.
async function connect() {
  clearTimeout(timer);
  source?.close();
  source = follow("events?history=0", [...kinds, "statistics"], take, lost);
  try {
    await everything();
  } catch (e) {
    lost(e);
    return;
  }
  if (source.readyState === EventSource.CLOSED) return;
  again = againLeast;
  link("live", "live");
  for (const c of cards.values()) c.wakeUp();
}

function lost(e) {
  source?.close();
  if (e instanceof Refused && e.status === 401) {
    shut();
    return;
  }
  if (document.hidden) return;
  link("lost", "tiproxy does not answer: trying again");
  clearTimeout(timer);
  timer = setTimeout(connect, again);
  again = Math.min(2 * again, againMost);
}

// shut shows how to get in.
function shut() {
  clearTimeout(timer);
  link("out", "not logged in");
  const form = document.documentElement.dataset.entry === "form";
  byId("door").hidden = false;
  byId("all").hidden = true;
  byId("leave").hidden = true;
  byId("form").hidden = !form;
  byId("again").hidden = form;
  byId("wrong").hidden = !location.search.includes("wrong");
  if (form) byId("token").focus();
}

async function everything() {
  const [{ services }, { groups }, version] = await Promise.all([get("services"), get("groups"), get("version")]);
  if (location.search) history.replaceState(null, "", "/");
  byId("door").hidden = true;
  byId("all").hidden = false;
  byId("leave").hidden = document.documentElement.dataset.entry !== "form";
  byId("version").textContent = version.version;
  const names = new Set(services.map((s) => s.name));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.remove();
    cards.delete(name);
  }
  services.forEach((s, i) => {
    const card = cards.get(s.name);
    if (card) card.take(s);
    else cards.set(s.name, new Card(s, clock));
    // In the order of the answer. What is moved loses focus and place.
    const { root } = cards.get(s.name), there = byId("cards").children[i];
    if (there !== root) byId("cards").insertBefore(root, there ?? null);
  });
  drawGroups(groups);
  drawRanges();
  drawSum();
}

// take is told an event.
function take(ev) {
  if (ev.kind === "statistics") {
    const off = Date.parse(ev.at) - Date.now();
    skew = Math.abs(off) < 2000 ? 0 : off;
    const unused = cards.get(ev.service)?.count(ev.statistics);
    if (unused) ask(ev.service);
    drawSum();
    return;
  }
  if (ev.kind === "stopping") link("lost", "tiproxy is stopping");
  ask(ev.kind.startsWith("reload") ? "" : ev.service ?? "");
}

// ask asks for a service soon, together with others.
function ask(name) {
  if (due.size === 0) setTimeout(answer, crowdTime);
  due.add(name);
}

async function answer() {
  const names = [...due];
  due.clear();
  try {
    if (names.some((n) => !cards.has(n))) {
      await everything();
      return;
    }
    const asked = names.map(async (n) => cards.get(n)?.take(await get(below(n))));
    if (byId("groups").childElementCount > 0) asked.push(get("groups").then((g) => drawGroups(g.groups)));
    await Promise.all(asked);
    drawSum();
  } catch (e) {
    if (!(e instanceof Refused) || e.status === 401) lost(e);
  }
}

// drawSum adds up what the cards show.
function drawSum() {
  const all = [...cards.values()];
  let slept = 0, total = 0, awake = 0, clients = 0, waiting = 0, starts = 0;
  const took = [];
  let since = Infinity;
  for (const c of all) {
    const spent = c.seconds();
    slept += spent.closed;
    total += spent.total;
    awake += c.s.state === "closed" ? 0 : 1;
    clients += c.s.connections;
    waiting += c.s.waiting;
    starts += c.s.starts;
    took.push(...c.s.cold_starts.filter((s) => s.ok).map((s) => s.took));
    since = Math.min(since, Date.parse(c.s.counting_since));
  }
  took.sort((a, b) => a - b);
  const share = total > 0 ? percent(slept / total) : "–";
  byId("share").textContent = share;
  byId("sharewords").textContent = all.length ? `asleep since ${moment(since, clock())}` : "no services";
  byId("sharenote").textContent = `counted since tiproxy was started${all.length > 1 ? `, over ${all.length} services` : ""}`;
  byId("awake").textContent = `${awake} of ${all.length}`;
  byId("clients").textContent = clients + (waiting ? ` + ${waiting} waiting` : "");
  byId("starts").textContent = starts;
  byId("usual").textContent = took.length ? lasting(took[Math.floor(took.length / 2)]) : "–";
  document.title = `${awake} of ${all.length} awake · tiproxy`;
}

function drawGroups(groups) {
  byId("groups").replaceChildren(...groups.map((g) => {
    const box = element("article", "group");
    const title = element("h3");
    title.append(element("span", "", g.name), element("span", "note", g.services.join(", ")));
    box.append(title);
    for (const r of g.resources) {
      const row = element("div", "resource");
      const meter = element("div", r.used < r.limit ? "meter" : "meter full");
      const used = element("div");
      used.style.width = `${100 * Math.min(1, r.used / (r.limit || 1))}%`;
      meter.append(used);
      const write = r.limit >= 1 << 20 ? size : String;
      row.append(element("span", "", r.name), meter, element("span", "", `${write(r.used)} of ${write(r.limit)}`));
      box.append(row);
    }
    if (g.waiting.length) box.append(element("p", "alarm", `waiting for room: ${g.waiting.join(", ")}`));
    return box;
  }));
}

function element(kind, name = "", text = "") {
  return Object.assign(document.createElement(kind), { className: name, textContent: text });
}

// Spans of time that can be looked at, in ms; 0 is since tiproxy's start.
const ranges = [["15 min", 900e3], ["1 h", 3600e3], ["24 h", 86400e3], ["since start", 0]];
let range = null;

// drawRanges offers the spans once it is known how long tiproxy has run.
function drawRanges() {
  const began = Math.min(clock(), ...[...cards.values()].map((c) => Date.parse(c.s.counting_since)));
  range ??= clock() - began > 86400e3 ? 86400e3 : 0;
  if (byId("range").querySelector("input") === null) {
    for (const [text, span] of ranges) {
      const label = element("label");
      const input = element("input");
      Object.assign(input, { type: "radio", name: "range", value: span, checked: span === range });
      input.addEventListener("change", () => {
        range = span;
        for (const c of cards.values()) c.show(range);
      });
      label.append(input, element("span", "", text));
      byId("range").append(label);
    }
  }
  for (const c of cards.values()) c.show(range);
}

// What is shown grows older by itself; nobody is asked for that.
setInterval(() => {
  if (document.hidden) return;
  for (const c of cards.values()) c.tick();
  drawSum();
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    connect();
    return;
  }
  for (const c of cards.values()) c.forget();
  clearTimeout(timer);
  source?.close();
  for (const c of cards.values()) c.close();
});

connect();
