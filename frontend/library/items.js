// An account's own items, newest first, as the service last told of them.

import { Backoff, pause } from "../common/backoff.js";

const pageItems = 100;
const againMilliseconds = 500;

export function isBusy({ status }) {
  return status === "received" || status === "processing";
}

// Calls `changed` whenever there is something to show, `settled` with an item that is busy no more, and
// `gone` with one that is not there any more. `ask` raises a Problem, one that is `late` where somebody
// else has logged in meanwhile.
export class Items {
  constructor(session, { ask, changed, settled, gone }) {
    Object.assign(this, { session, ask, changed, settled, gone });
    this.backoff = new Backoff(1000, 15000);
    this.looking = this.lookAgain = false;
    this.asked = new Map(); // by the id of an item, what of it was asked for last and is on its way
    this.clear();
  }

  // Of an account that is another one now.
  clear() {
    this.all = new Map();
    this.more = false; // whether there are others behind them
    this.wanted = 0; // how many of them at least
    this.loaded = false;
    this.problem = "";
    this.asked.clear();
    clearTimeout(this.timer); // of a look after one that failed
    this.timer = undefined;
  }

  // What is shown anew: one look at a time, however often there is reason for one.
  async look() {
    if (this.looking) {
      this.lookAgain = true;
      return;
    }
    this.looking = true;
    await this.#list();
    while (this.lookAgain && this.session.token && !this.timer) {
      this.lookAgain = false;
      await pause(againMilliseconds);
      await this.#list();
    }
    this.looking = this.lookAgain = false;
  }

  #lookLater(error) {
    if (!error.temporary || error.late) return;
    const again = () => {
      this.timer = undefined;
      this.look();
    };
    this.timer ??= setTimeout(again, this.backoff.next(error.waitMilliseconds));
  }

  showMore() {
    this.wanted = this.all.size + 1;
    this.look();
  }

  // As many pages as are shown, or wanted.
  async #list() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const kept = [];
    const wanted = Math.max(1, this.all.size, this.wanted);
    let next = null;
    try {
      do {
        const page = await this.#page(next);
        kept.push(...page.items);
        next = page.next_cursor;
      } while (next && kept.length < wanted);
      kept.forEach((item) => this.#tellEnd(item));
      this.#show(kept);
      Object.assign(this, { more: Boolean(next), loaded: true, problem: "" });
    } catch (error) {
      if (error.late) return;
      this.problem = error.message;
      this.#lookLater(error);
    }
    this.changed();
  }

  // A page of the list. What is refused as one too many is asked for again, once it may be: a long list
  // that began anew then would never come to its end.
  async #page(cursor) {
    const { token } = this.session;
    const from = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
    for (;;) {
      try {
        const page = await this.ask("GET", `/api/media?limit=${pageItems}${from}`);
        this.backoff.reset();
        return page;
      } catch (error) {
        if (error.status !== 429) throw error;
        await this.#pauseOrLogin(this.backoff.next(error.waitMilliseconds));
        if (token !== this.session.token) throw Object.assign(error, { late: true });
      }
    }
  }

  // No longer than until another login, as then nobody waits for it.
  async #pauseOrLogin(milliseconds) {
    const over = new AbortController();
    const { signal } = over;
    const login = new Promise((resolve) => this.session.addEventListener("change", resolve, { signal }));
    await Promise.race([pause(milliseconds), login]);
    over.abort();
  }

  // What a list that is under way has read may be from before.
  #overtakes() {
    this.lookAgain = this.looking;
  }

  async told({ id, status, progress }) {
    if (status === "deleted") {
      this.drop(id);
    } else if (this.all.has(id) && isBusy({ status })) {
      Object.assign(this.all.get(id), { status, progress });
    } else {
      await this.#refresh(id);
    }
    this.changed();
  }

  drop(id) {
    this.#overtakes();
    this.asked.delete(id); // what is on its way is from before
    const item = this.all.get(id);
    this.all.delete(id);
    if (item) this.gone(item);
  }

  // Steps of an item may overtake each other on their way: what was asked for last counts.
  async #refresh(id) {
    const turn = Symbol(id);
    this.asked.set(id, turn);
    const isLast = () => this.asked.get(id) === turn;
    try {
      const item = await this.ask("GET", `/api/media/${id}`);
      if (!isLast()) return;
      this.#overtakes();
      this.#tellEnd(item);
      this.#put(item);
    } catch (error) {
      if (error.status === 404) this.drop(id);
      this.#lookLater(error); // the socket tells of it but once
    } finally {
      if (isLast()) this.asked.delete(id);
    }
  }

  // To who does not see it.
  #tellEnd(item) {
    const before = this.all.get(item.id);
    if (before && isBusy(before) && !isBusy(item)) this.settled(item);
  }

  // In its place, and no more than were wanted; what is older than all that is shown comes with its page.
  #put(item) {
    if (this.all.has(item.id)) {
      this.all.set(item.id, item);
      return;
    }
    const items = [...this.all.values(), item].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
    if (this.more && items.at(-1) === item) items.pop();
    const most = pageItems * Math.max(1, Math.ceil(this.wanted / pageItems));
    if (items.length > most) {
      items.length = most;
      this.more = true;
    }
    this.#show(items);
  }

  #show(items) {
    const before = this.all;
    this.all = new Map(items.map((item) => [item.id, item]));
    for (const item of before.values()) if (!this.all.has(item.id)) this.gone(item);
  }

  // A new one.
  add(item) {
    this.#overtakes();
    if (!this.all.has(item.id)) this.#put(item);
  }

  async change(id, body) {
    const item = await this.ask("PATCH", `/api/media/${id}`, { json: body });
    this.#overtakes();
    if (this.all.has(id)) this.#put(item);
  }
}
