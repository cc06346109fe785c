// Drawings, made of SVG elements. Colours come from the style sheet by class.

import { ago, lasting, moment, reason } from "./words.js";

const svg = "http://www.w3.org/2000/svg";

// shape makes an element; what it is about is told to a pointer and a reader.
function shape(kind, attributes, title) {
  const e = document.createElementNS(svg, kind);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (title) e.appendChild(document.createElementNS(svg, "title")).textContent = title;
  return e;
}

// spells are the times between changes of state, in ms: what is before the
// first change that is remembered is not known, if any were forgotten.
export function spells(s, now) {
  const list = [];
  const begin = Date.parse(s.counting_since);
  const changes = s.timeline;
  const known = changes.filter((c) => c.state === "starting").length;
  let from = { at: begin, state: known < s.starts ? "forgotten" : "closed", first: true };
  for (const c of changes) {
    const at = Date.parse(c.at);
    list.push({ ...from, end: at });
    from = { at, state: c.state, reason: c.reason, who: c.who };
  }
  list.push({ ...from, end: Math.max(now, from.at), now: true });
  let who = "", slept = "";
  for (const x of list) {
    if (x.state === "starting") who = x.who || who;
    if (x.reason) slept = x.reason;
    if (x.state === "opened" || x.state === "starting") x.who = who;
    if (x.state === "closed" || x.state === "shutdown") x.reason = x.reason || slept;
  }
  return list;
}

// told says what a spell was.
export function told(x, now) {
  const span = `${moment(x.at, now, true)} – ${x.now ? "now" : moment(x.end, now, true)} (${ago((x.end - x.at) / 1000)})`;
  switch (x.state) {
    case "opened": return `${span}: awake${x.who ? `, woken by ${x.who}` : ""}`;
    case "starting": return `${span}: starting${x.who ? `, woken by ${x.who}` : ""}`;
    case "shutdown": return `${span}: stopping${x.reason ? `, because ${reason(x.reason)}` : ""}`;
    case "closed": return x.first ? `${span}: asleep, nobody had come yet` : `${span}: asleep${x.reason ? `, because ${reason(x.reason)}` : ""}`;
  }
  return `${span}: longer ago than is remembered`;
}

// timeline draws spells from one moment to another.
export function timeline(into, list, from, to) {
  const across = (t) => 1000 * (Math.min(Math.max(t, from), to) - from) / (to - from || 1);
  const drawn = [shape("rect", { x: 0, y: 8, width: 1000, height: 22, rx: 3, class: "track" })];
  for (const x of list) {
    if (x.end <= from || x.at >= to) continue;
    const left = across(x.at);
    const least = x.state === "closed" ? 0 : 2; // a short life is seen, too
    const wide = Math.max(across(x.end) - left, least);
    drawn.push(shape("rect", { x: Math.min(left, 1000 - wide), y: 8, width: wide, height: 22, class: x.state }));
    if (x.state === "starting" && x.at >= from) {
      drawn.push(shape("rect", { x: Math.min(left, 998), y: 0, width: 2, height: 30, class: "mark" }));
    }
  }
  into.replaceChildren(...drawn);
}

// pointed is the spell at a part of the line, the shortest of those that a
// finger may have meant.
export function pointed(list, from, to, part, finger) {
  const t = from + part * (to - from), about = finger * (to - from);
  const near = list.filter((x) => x.at <= t + about && x.end >= t - about);
  return near.sort((a, b) => (a.end - a.at) - (b.end - b.at))[0] ?? null;
}

// axis labels a timeline with four moments.
export function axis(into, from, to, now) {
  const days = to - from > 6 * 86400e3 || new Date(from).toDateString() !== new Date(to).toDateString();
  const full = to - from < 10 * 60e3;
  const labels = [0, 1 / 3, 2 / 3, 1].map((part) => {
    const e = document.createElement("span");
    const t = from + part * (to - from);
    e.textContent = part === 1 ? "now" : days ? moment(t, now) : moment(t, t, full);
    return e;
  });
  into.replaceChildren(...labels);
}

// spark draws rates: pairs of up and down, the newest last.
export function spark(into, rates) {
  const most = Math.max(1, ...rates.flat());
  const wide = 120, high = 40;
  const line = (i) => rates.map((r, n) => `${(wide * n / (rates.length - 1 || 1)).toFixed(1)},${(high - 2 - (high - 4) * r[i] / most).toFixed(1)}`);
  const down = line(1);
  into.replaceChildren(
    shape("path", { d: `M0,${high} L${down.join(" L")} L${wide},${high} Z`, class: "downfill" }),
    shape("path", { d: `M${down.join(" L")}`, class: "down" }),
    shape("path", { d: `M${line(0).join(" L")}`, class: "up" }),
  );
}

// colds draws how long starts took: a bar each, the newest at the right.
export function colds(into, starts, now) {
  const places = Math.max(16, starts.length);
  const most = Math.max(0.001, ...starts.map((s) => s.took));
  const step = 240 / places;
  const drawn = [shape("line", { x1: 0, x2: 240, y1: 39.5, y2: 39.5, class: "ground" })];
  starts.forEach((s, i) => {
    const high = Math.max(2, 38 * s.took / most);
    drawn.push(shape("rect", {
      x: (240 - step * (starts.length - i) + step * 0.15).toFixed(2), y: (39 - high).toFixed(2), width: (step * 0.7).toFixed(2), height: high.toFixed(2), class: s.ok ? "took" : "failed",
    }, `${moment(Date.parse(s.at), now, true)}: ${s.ok ? "ready after" : "failed after"} ${lasting(s.took)}, woken by ${s.who}`));
  });
  into.replaceChildren(...drawn);
}
