// How times, spans and numbers are written for people: as tiproxy status does.

export function lasting(s) {
  s = Math.max(s, 0);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(Math.floor(s % 60))} s`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
  return `${Math.floor(s / 86400)} days ${Math.floor(s / 3600) % 24} h`;
}

// ago has no fraction: it is written anew every second.
export function ago(s) {
  return s < 10 ? `${Math.floor(Math.max(s, 0))} s` : lasting(s);
}

const two = (n) => String(n).padStart(2, "0");

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const weekday = new Intl.DateTimeFormat("en-GB", { weekday: "long" });
const short = new Intl.DateTimeFormat("en-GB", { weekday: "short" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

// moment is when something was or will be, as seen from now; both in ms.
export function moment(t, now, full = false) {
  const time = full ? exact.format(t) : clock.format(t);
  if (new Date(t).toDateString() === new Date(now).toDateString()) return time;
  if (Math.abs(now - t) < 6 * 86400e3) return `${(full ? short : weekday).format(t)} ${time}`;
  return `${date.format(t)} ${time}`;
}

// percent never says 0 or 100 of what is only near.
export function percent(part) {
  const n = 100 * part;
  if (n > 99 && n < 100) return `${Math.min(n, 99.9).toFixed(1)} %`;
  if (n > 0 && n < 1) return "<1 %";
  return `${n.toFixed(0)} %`;
}

export function size(n) {
  if (n < 1024) return `${Math.round(n)} B`;
  let i = -1;
  do {
    n /= 1024;
    i++;
  } while (n >= 1023.95 && i < 5);
  return `${n.toFixed(1)} ${"KMGTPE"[i]}iB`;
}

export const count = (n, one, many = one + "s") => `${n} ${n === 1 ? one : many}`;

const reasons = {
  "idle": "nobody was connected",
  "start timeout": "it was not ready in time",
  "start failed": "it could not be started",
  "tiproxy stops": "tiproxy stops",
  "asked for": "somebody asked for it",
  "room needed": "others needed the room",
  "child exited": "the server ended by itself",
  "child crashed": "the server crashed",
};

export const reason = (r) => reasons[r] || r || "";
