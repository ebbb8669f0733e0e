// Previews and originals that only their owner may fetch: with a token, which an <img> has not.

import { Problem } from "../common/request.js";

const linkType = "text/uri-list";
const againMilliseconds = 5000;

export class Pictures {
  constructor(changed) {
    this.changed = changed;
    this.shown = new Map(); // by the item's address of it, `{address}`: "" while it is fetched
  }

  // Where to show it from, or nothing yet.
  address(item, token) {
    const path = item.thumbnail_url;
    if (!path) return "";
    if (item.public !== false && !this.shown.get(path)?.address) return path;
    if (!this.shown.has(path)) this.#fetch(path, token);
    return this.shown.get(path).address;
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

  async #fetch(path, token) {
    const entry = { address: "" };
    this.shown.set(path, entry);
    const wanted = () => this.shown.get(path) === entry; // or its item is gone, or who looked at it
    try {
      const content = await fetched(path, token);
      if (!wanted()) return;
      entry.address = URL.createObjectURL(content);
      this.changed();
    } catch (error) {
      if (error.temporary !== false) setTimeout(() => wanted() && this.#again(path), againMilliseconds);
    }
  }

  // Whoever shows it asks for it.
  #again(path) {
    this.#drop(path);
    this.changed();
  }
}

async function fetched(path, token, accept = "*/*") {
  const headers = { Authorization: `Bearer ${token}`, Accept: accept };
  const response = await fetch(path, { headers });
  if (!response.ok) throw new Problem(response.status, response.statusText);
  return response.blob();
}

// Saves an item's original under its name. Where an object store sends it, that is asked for the link.
export async function download(item, token) {
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
