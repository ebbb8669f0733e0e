// Items on their way out: each is shown no more, and deleted once the time to undo it is over.

import { request } from "../common/request.js";

const undoMilliseconds = 6000;
const moreMilliseconds = 3000; // and so much again while it is held, this often
const mostMore = 20;

// `isHeld` tells of an item's id whether somebody is about to undo it. Calls `changed` whenever there is
// something to show, `gone` with the id of what is deleted, and `failed` with an item that is not, and
// the Problem.
export class Removals {
  constructor({ isHeld, changed, gone, failed }) {
    Object.assign(this, { isHeld, changed, gone, failed });
    this.entries = new Map(); // by the item's id: `{item, token, timer, sent}`
  }

  has(id) {
    return this.entries.has(id);
  }

  // The item that an undo is of, if there is any.
  get last() {
    return [...this.entries.values()].findLast(({ sent }) => !sent)?.item;
  }

  begin(item, token) {
    const entry = { item, token, sent: false };
    this.entries.set(item.id, entry);
    this.#wait(entry, undoMilliseconds, mostMore);
  }

  #wait(entry, milliseconds, more) {
    const { id } = entry.item;
    entry.timer = setTimeout(() => {
      if (more && this.isHeld(id)) this.#wait(entry, moreMilliseconds, more - 1);
      else this.#finish(id);
    }, milliseconds);
  }

  undo(id) {
    clearTimeout(this.entries.get(id).timer);
    this.entries.delete(id);
  }

  // Also after its owner has logged out, or left the page: it was said to be deleted.
  finishAll() {
    return Promise.all([...this.entries.keys()].map((id) => this.#finish(id)));
  }

  async #finish(id) {
    const entry = this.entries.get(id);
    if (entry.sent) return;
    const { item, timer, token } = entry;
    entry.sent = true;
    clearTimeout(timer);
    this.changed();
    try {
      await request("DELETE", `/api/media/${id}`, { token, keepalive: true });
      this.gone(id);
    } catch (error) {
      if (error.status === 404) this.gone(id);
      else this.failed(item, error);
    }
    this.entries.delete(id);
    this.changed();
  }
}
