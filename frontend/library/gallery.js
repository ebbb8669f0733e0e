// What all have made public.

import { request } from "../common/request.js";

export class Gallery {
  constructor(changed) {
    this.changed = changed;
    this.items = [];
    this.next = null; // the cursor of the page behind them
    this.loaded = false;
    this.problem = "";
    this.readOn = false;
    this.turn = 0; // what was asked for last counts
  }

  async list({ more = false } = {}) {
    const turn = (this.turn += 1);
    const cursor = more ? `?cursor=${encodeURIComponent(this.next)}` : "";
    this.readOn = more;
    try {
      // Not from this browser's own cache, where what was just published is not.
      const page = await request("GET", `/api/public/media${cursor}`, { cache: "no-cache" });
      if (turn !== this.turn) return;
      this.items = more ? [...this.items, ...page.items] : page.items;
      Object.assign(this, { next: page.next_cursor, loaded: true, problem: "" });
    } catch (error) {
      if (turn !== this.turn) return;
      this.problem = error.message;
    }
    this.changed();
  }

  // Who reads on is left in peace, unless what was to come did not.
  lookAgain() {
    if (this.problem || !this.readOn) this.list({ more: this.readOn });
  }
}
