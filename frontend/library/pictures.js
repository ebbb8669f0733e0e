// Previews and originals that only their owner may fetch: with a token, which an <img> has not.

import { Problem } from "../common/request.js";

const linkType = "text/uri-list";

export class Pictures {
  constructor(changed) {
    this.changed = changed;
    this.addresses = new Map(); // by the item's address of it; "" while it is fetched
  }

  // Where to show it from, or nothing yet.
  address(item, token) {
    const path = item.thumbnail_url;
    if (!path) return "";
    if (item.public !== false && !this.addresses.get(path)) return path;
    if (!this.addresses.has(path)) {
      this.addresses.set(path, "");
      this.#fetch(path, token);
    }
    return this.addresses.get(path);
  }

  forget(item) {
    const address = this.addresses.get(item.thumbnail_url);
    if (address) URL.revokeObjectURL(address);
    this.addresses.delete(item.thumbnail_url);
  }

  clear() {
    for (const address of this.addresses.values()) if (address) URL.revokeObjectURL(address);
    this.addresses.clear();
  }

  async #fetch(path, token) {
    try {
      const content = await fetched(path, token);
      if (this.addresses.get(path) !== "") return; // of an item that is gone, or somebody's who is
      this.addresses.set(path, URL.createObjectURL(content));
      this.changed();
    } catch {
      setTimeout(() => this.addresses.delete(path), 5000); // then it is asked for again
    }
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
