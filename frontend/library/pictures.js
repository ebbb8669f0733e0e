// Previews and originals that only their owner may fetch: with a token, which an <img> has not.

import { Backoff } from "../common/backoff.js";
import { Patience } from "../common/patience.js";
import { Problem, unreachable } from "../common/request.js";

const linkType = "text/uri-list";
const stillMilliseconds = 20_000; // content of which nothing has come for so long does not come
const publicTries = 6;

export class Pictures {
  constructor(changed) {
    this.changed = changed;
    // By the item's address of it, `{address, waits, backoff}`: nothing is asked for while it waits.
    this.shown = new Map();
  }

  // Where to show it from, or nothing yet.
  address(item, token) {
    const path = item.thumbnail_url;
    if (!path) return "";
    const entry = this.shown.get(path);
    if (entry?.address || entry?.waits) return entry.address;
    if (item.public !== false) return path; // a browser fetches it by itself
    this.#fetch(path, token);
    return "";
  }

  // What a browser fetched by itself. It does not say why, so there is an end to that.
  failed(item) {
    const path = item.thumbnail_url;
    const entry = this.#entry(path);
    if (entry.address || entry.waits) return;
    entry.waits = true;
    if (entry.backoff.tries < publicTries) this.#again(path, entry);
    this.changed();
  }

  forget(item) {
    this.#drop(item.thumbnail_url);
  }

  clear() {
    for (const path of [...this.shown.keys()]) this.#drop(path);
  }

  #drop(path) {
    const address = this.shown.get(path)?.address;
    if (address) URL.revokeObjectURL(address);
    this.shown.delete(path);
  }

  #entry(path) {
    if (!this.shown.has(path)) {
      this.shown.set(path, { address: "", waits: false, backoff: new Backoff(5000, 300_000) });
    }
    return this.shown.get(path);
  }

  // Its item may be gone meanwhile, or who looked at it.
  #isWanted(path, entry) {
    return this.shown.get(path) === entry;
  }

  async #fetch(path, token) {
    const entry = this.#entry(path);
    entry.waits = true;
    try {
      const content = await fetched(path, token);
      if (!this.#isWanted(path, entry)) return;
      entry.address = URL.createObjectURL(content);
      this.changed();
    } catch (error) {
      if (error.temporary) this.#again(path, entry, error.waitMilliseconds);
    }
  }

  // Whoever shows it then asks for it.
  #again(path, entry, waitMilliseconds) {
    setTimeout(() => {
      if (!this.#isWanted(path, entry)) return;
      entry.waits = false;
      this.changed();
    }, entry.backoff.next(waitMilliseconds));
  }
}

async function fetched(path, token, accept = "*/*") {
  const headers = { Authorization: `Bearer ${token}`, Accept: accept };
  const cancel = new AbortController();
  const patience = new Patience(() => cancel.abort());
  const transform = (chunk, moving) => {
    patience.atMost(stillMilliseconds);
    moving.enqueue(chunk);
  };
  patience.atMost(stillMilliseconds);
  try {
    const response = await fetch(path, { headers, signal: cancel.signal });
    if (!response.ok) throw problemOf(response);
    const moving = response.body.pipeThrough(new TransformStream({ transform }));
    return await new Response(moving, { headers: response.headers }).blob();
  } catch (error) {
    throw error instanceof Problem ? error : unreachable();
  } finally {
    patience.end();
  }
}

function problemOf({ status, headers }) {
  return new Problem(status, `The answer was ${status}.`, { retryAfter: headers.get("Retry-After") });
}

const downloads = new Map(); // those under way, by address

// Saves an item's original under its name, once however often that is asked for meanwhile.
export function download(item, token) {
  const { url } = item;
  if (!downloads.has(url)) downloads.set(url, save(item, token).finally(() => downloads.delete(url)));
  return downloads.get(url);
}

// Where an object store sends it, that is asked for the link.
async function save(item, token) {
  const content = await fetched(item.url, token, `${linkType}, */*;q=0.5`);
  const elsewhere = content.type === linkType;
  const address = elsewhere ? (await content.text()).trim() : URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = address;
  if (elsewhere) Object.assign(link, { target: "_blank", rel: "noopener" });
  else link.download = item.filename;
  link.click();
  if (!elsewhere) setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
