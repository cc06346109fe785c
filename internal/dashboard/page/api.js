// What the page asks tiproxy. It never asks again and again: it is told.

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function exchange(path, method) {
  const got = await fetch(path, { method, credentials: "same-origin", cache: "no-store", redirect: "error" });
  let answer = {};
  try {
    answer = await got.json();
  } catch {
    // what is no JSON is told by its status
  }
  if (!got.ok) throw new Refused(got.status, answer.hint && got.status !== 502 ? `${answer.error}: ${answer.hint}` : answer.error || got.statusText);
  return answer;
}

const base = "/api/v1/";

export const get = (path) => exchange(base + path, "GET");
export const post = (path) => exchange(base + path, "POST");
export const below = (name, what = "") => `services/${encodeURIComponent(name)}${what}`;

// follow is told each event of a stream, until close is called on what it
// returns or the stream ends: then over is called once.
export function follow(path, kinds, take, over) {
  const source = new EventSource(base + path);
  const end = () => {
    source.close();
    over();
  };
  for (const kind of kinds) source.addEventListener(kind, (e) => take(JSON.parse(e.data)));
  source.addEventListener("dropped", end);
  source.addEventListener("error", end);
  return source;
}
