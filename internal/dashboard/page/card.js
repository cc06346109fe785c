// A card shows one service, and has its buttons.

import { below, follow, get, post } from "./api.js";
import { axis, colds, pointed, spark, spells, timeline, told } from "./charts.js";
import { ago, count, lasting, moment, percent, reason, size } from "./words.js";

const linesMost = 1000; // of output that are shown
const connsMost = 50;
const ratesMost = 120; // seconds of throughput that are shown
const sureTime = 5000; // ms in which a stop that cuts clients off is to be confirmed

const words = { closed: "asleep", starting: "starting", opened: "awake", shutdown: "stopping" };

// kilo is a rate of bytes a second.
const kilo = (n) => `${size(n)}/s`;

export class Card {
  constructor(service, clock) {
    this.clock = clock; // () => now by tiproxy's clock, in ms
    this.root = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.root.dataset.service = service.name;
    this.root.setAttribute("aria-label", service.name);
    this.rates = [];
    this.pointed = null; // the spell that is pointed at
    this.busy = false;
    this.part("stop").addEventListener("click", () => this.stop());
    this.part("start").addEventListener("click", () => this.order("start"));
    this.part("release").addEventListener("click", () => this.order("release"));
    this.part("hold").addEventListener("click", () => this.order(`hold?for=${this.part("for").value}`));
    this.details = this.root.querySelector("details");
    this.details.addEventListener("toggle", () => (this.details.open ? this.open() : this.close()));
    for (const kind of ["pointermove", "pointerdown"]) this.part("timeline").addEventListener(kind, (e) => this.point(e));
    this.part("timeline").addEventListener("pointerleave", (e) => e.pointerType === "mouse" && this.point(null));
    // What is not to be seen is not drawn every second.
    this.seen = true;
    this.watcher = new IntersectionObserver((list) => (this.seen = list.at(-1).isIntersecting));
    this.watcher.observe(this.root);
    this.take(service);
  }

  part(name) {
    return this.root.querySelector("." + name);
  }

  write(name, text) {
    const e = this.part(name);
    if (e.textContent !== text) e.textContent = text;
  }

  // take is told how the service is now.
  take(service) {
    this.s = service;
    this.taken = this.clock();
    this.spells = spells(service, this.taken);
    this.bytes ??= [service.bytes_up, service.bytes_down];
    this.pointed = null;
    this.drawHistory();
    this.drawColds(this.taken);
    if (this.details.open) this.connections();
    this.draw();
  }

  // count is told numbers that have changed.
  count(n) {
    const s = this.s;
    Object.assign(s, n);
    if (n.connections > n.resting) delete s.idle_deadline;
    if (this.details.open) this.connections();
    this.draw();
    return s.state === "opened" && n.connections <= n.resting; // there is a moment to sleep at
  }

  // forget ends a measurement: nobody will be told what comes.
  forget() {
    this.rates = [];
    this.bytes = null;
  }

  // tick is a second that has passed.
  tick() {
    if (!this.bytes) return;
    const now = [this.s.bytes_up, this.s.bytes_down];
    this.rates.push([Math.max(0, now[0] - this.bytes[0]), Math.max(0, now[1] - this.bytes[1])]);
    if (this.rates.length > ratesMost) this.rates.shift();
    this.bytes = now;
    if (this.seen) this.draw();
  }

  // seconds are those in each state by now.
  seconds() {
    const sum = { ...this.s.seconds };
    sum[this.s.state] += Math.max(0, (this.clock() - this.taken) / 1000);
    sum.total = sum.closed + sum.starting + sum.opened + sum.shutdown;
    return sum;
  }

  show(range) {
    this.range = range;
    this.draw();
  }

  draw() {
    const { s } = this, now = this.clock();
    this.root.dataset.state = s.state;
    this.write("name", s.name);
    this.write("where", `${s.bind} → ${s.program}${s.group ? ` · group ${s.group}` : ""}${s.path === "copy" ? "" : ` · ${s.path}`}`);
    this.write("state", `${words[s.state]} for ${ago((now - Date.parse(s.since)) / 1000)}`);
    this.write("why", this.why(now));
    this.drawButtons();
    this.drawAlarm(now);
    this.drawTime(now);
    this.drawNumbers(now);
  }

  // why tells what made it so, and what comes next.
  why(now) {
    const { s } = this;
    const last = this.spells.at(-1);
    const said = [];
    if (s.state === "opened" || s.state === "starting") said.push(last.who ? `woken by ${last.who}` : "");
    else said.push(last.first ? "nobody has come yet" : reason(last.reason));
    if (s.draining) said.push("lets its clients finish, then stops");
    if (s.held_until) said.push(`held until ${moment(Date.parse(s.held_until), now)}`);
    else if (s.idle_deadline && s.state === "opened") said.push(`sleeps in ${ago((Date.parse(s.idle_deadline) - now) / 1000)}`);
    return said.filter(Boolean).join(" · ");
  }

  drawButtons() {
    const { s } = this;
    this.part("start").hidden = s.state !== "closed" || Boolean(s.held_until);
    this.part("stop").hidden = s.state === "closed" && !s.held_until;
    this.part("holding").hidden = Boolean(s.held_until);
    this.part("release").hidden = !s.held_until;
    for (const b of this.root.querySelectorAll(".buttons button, .buttons select")) b.disabled = this.busy;
    this.part("stop").disabled ||= s.state === "shutdown";
  }

  drawAlarm(now) {
    const { s } = this;
    let text = this.problem || "";
    const ready = s.timeline.findLast((c) => c.state === "opened");
    const f = s.last_error;
    if (s.failed) text = `takes no clients: ${s.failed}`;
    else if (!text && f && s.state !== "opened" && !(ready && Date.parse(f.at) < Date.parse(ready.at))) {
      text = `${f.at ? `${moment(Date.parse(f.at), now, true)}: ` : ""}${f.error}${f.lines?.length ? ` — it printed: ${f.lines.at(-1)}` : ""}${f.hint ? ` (${f.hint})` : ""}`;
    }
    const e = this.part("alarm");
    e.hidden = !text;
    if (e.textContent !== text) e.textContent = text;
  }

  drawTime(now) {
    const { s } = this;
    const begin = Date.parse(s.counting_since);
    const from = this.range ? now - this.range : begin;
    const last = this.spells.at(-1);
    last.end = Math.max(now, last.at);
    const list = from < begin ? [{ at: from, end: begin, state: "before" }, ...this.spells] : this.spells;
    const svg = this.part("timeline");
    this.shown = { list, from, now };
    timeline(svg, list, from, now);
    svg.setAttribute("aria-label", `${s.name}: ${told(last, now)}`);
    axis(this.part("axis"), from, now, now);
    this.write("told", this.tell(this.pointed ?? last, now));
  }

  tell(x, now) {
    return x.state === "before" ? "tiproxy was not running, or did not count yet" : told(x, now);
  }

  point(e) {
    this.pointed = null;
    if (e) {
      const box = e.currentTarget.getBoundingClientRect();
      const finger = (e.pointerType === "mouse" ? 3 : 10) / box.width;
      this.pointed = pointed(this.shown.list, this.shown.from, this.shown.now, (e.clientX - box.left) / box.width, finger);
    }
    this.write("told", this.tell(this.pointed ?? this.spells.at(-1), this.clock()));
  }

  drawNumbers(now) {
    const { s } = this;
    const spent = this.seconds();
    this.root.querySelector(".value.share").textContent = spent.total > 0 ? percent(spent.closed / spent.total) : "–";
    this.write("since", `since ${moment(Date.parse(s.counting_since), now)}`);
    this.root.querySelector(".value.clients").textContent = `${s.connections}${s.waiting ? ` + ${s.waiting} waiting` : ""}`;
    this.write("served", `${s.resting ? `${s.resting} resting · ` : ""}${s.served} served`);
    const rate = this.rates.at(-1) ?? [0, 0];
    this.write("rate", kilo(rate[0] + rate[1]));
    const rates = [...Array(ratesMost - this.rates.length).fill([0, 0]), ...this.rates];
    spark(this.part("spark"), rates);
    this.part("spark").setAttribute("aria-label", `to and from ${s.name} in the last two minutes`);
    this.write("bytes", `${size(s.bytes_up)} in · ${size(s.bytes_down)} out${s.path === "copy" ? "" : ", beside what the kernel carries"}`);
  }

  drawColds(now) {
    const { s } = this;
    const took = s.cold_starts.filter((c) => c.ok).map((c) => c.took);
    this.write("cold", took.length ? lasting(took.at(-1)) : "–");
    colds(this.part("colds"), s.cold_starts, now);
    this.part("colds").setAttribute("aria-label", `how long the last ${s.cold_starts.length} starts took`);
    const failed = s.failures ? ` · ${s.failures} failed` : "";
    this.write("coldnote", took.length ? `${count(s.starts, "start")}${failed} · longest ${lasting(Math.max(...took))}` : `${count(s.starts, "start")}${failed}`);
  }

  drawHistory() {
    const now = this.clock();
    const rows = this.spells.filter((x) => x.state !== "forgotten").toReversed().map((x) => {
      const row = document.createElement("li");
      row.className = x.state;
      const at = document.createElement("time");
      at.textContent = moment(x.at, now, true);
      const text = document.createElement("span");
      text.textContent = {
        starting: `woken by ${x.who}`,
        opened: "awake",
        shutdown: `stopping: ${reason(x.reason)}`,
        closed: x.first ? "asleep: tiproxy was started" : `asleep: ${reason(x.reason)}`,
      }[x.state];
      row.append(at, text);
      return row;
    });
    this.part("history").replaceChildren(...rows);
  }

  // stop asks first if somebody would be cut off.
  stop() {
    const b = this.part("stop");
    const clients = this.s.connections - this.s.resting;
    if (clients > 0 && !b.dataset.sure) {
      b.dataset.sure = "asked";
      b.textContent = `Stop with ${count(clients, "client")}?`;
      setTimeout(() => this.calm(), sureTime);
      return;
    }
    this.calm();
    this.order("stop");
  }

  calm() {
    const b = this.part("stop");
    delete b.dataset.sure;
    b.textContent = "Stop";
  }

  async order(verb) {
    this.busy = true;
    this.problem = "";
    this.draw();
    // What is only begun by then, such as draining, is no event.
    const look = setTimeout(() => this.look(), 300);
    try {
      this.take(await post(below(this.s.name, "/" + verb)));
    } catch (e) {
      this.problem = e.message;
    }
    clearTimeout(look);
    this.busy = false;
    this.draw();
  }

  // look asks how the service is.
  async look() {
    try {
      this.take(await get(below(this.s.name)));
    } catch {
      // it is gone, or tiproxy is: the events tell
    }
  }

  // open follows the output, and shows who is connected.
  open() {
    this.close();
    const box = this.part("output");
    box.replaceChildren();
    this.source = follow(below(this.s.name, "/output"), ["line"], (l) => this.print(box, l), () => (this.source = null));
    this.connections();
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  // remove is for a service that there is no more.
  remove() {
    this.close();
    this.watcher.disconnect();
    this.root.remove();
  }

  // wakeUp follows again what was followed before the page was hidden.
  wakeUp() {
    if (this.details.open && !this.source) this.open();
  }

  print(box, l) {
    const low = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
    const row = document.createElement("div");
    row.className = l.stream;
    const at = document.createElement("time");
    at.textContent = moment(Date.parse(l.time), Date.parse(l.time), true);
    row.append(at, " ", l.line.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, "") + (l.cut ? " …" : ""));
    box.append(row);
    while (box.childElementCount > linesMost) box.firstElementChild.remove();
    if (low) box.scrollTop = box.scrollHeight;
  }

  // connections shows who is connected. One question at a time.
  async connections() {
    if (this.asking) return;
    this.asking = true;
    try {
      this.list(await get(below(this.s.name, `/connections?limit=${connsMost}`)));
    } catch {
      // the events tell when tiproxy is gone
    }
    this.asking = false;
  }

  list(answer) {
    const now = this.clock();
    const rows = answer.connections.map((c) => {
      const row = document.createElement("tr");
      const kind = c.waiting ? " (waiting)" : c.resting ? " (resting)" : "";
      for (const text of [c.peer + kind, ago((now - Date.parse(c.since)) / 1000), size(c.bytes_up), size(c.bytes_down)]) {
        row.append(Object.assign(document.createElement("td"), { textContent: text }));
      }
      return row;
    });
    this.root.querySelector(".conns tbody").replaceChildren(...rows);
    this.part("conns").hidden = rows.length === 0;
    const more = answer.total - rows.length;
    this.write("connsnote", answer.total === 0 ? "Nobody is connected." : more > 0 ? `${rows.length ? "and " : ""}${count(more, "connection")}${rows.length ? " more" : ", not listed one by one"}` : "");
  }
}
