// Files on their way: a few at once, each under a key of its own, so that one that is sent again is
// never there twice.

import { Backoff } from "../common/backoff.js";
import { Problem } from "../common/request.js";

const atOnce = 3;
const tries = 5;

// `status` is waiting, sending, pausing, failed or stopped. `done` is called with the new item,
// `changed` whenever there is something to show.
export class Uploads {
  constructor(token, done, changed) {
    this.token = token; // a function: it may change while files wait
    this.done = done;
    this.changed = changed;
    this.list = [];
  }

  add(files) {
    for (const file of files) {
      this.list.push({
        file,
        key: crypto.randomUUID(),
        status: "waiting",
        sent: 0,
        reason: "",
        backoff: new Backoff(1000, 15000),
      });
    }
    this.#next();
  }

  stop(entry) {
    clearTimeout(entry.timer);
    entry.request?.abort();
    this.#set(entry, "stopped");
    this.#next();
  }

  retry(entry) {
    entry.backoff.reset();
    entry.sent = 0;
    this.#set(entry, "waiting");
    this.#next();
  }

  dismiss(entry) {
    clearTimeout(entry.timer);
    entry.request?.abort();
    this.list = this.list.filter((other) => other !== entry);
    this.changed();
    this.#next();
  }

  clear() {
    for (const entry of [...this.list]) this.dismiss(entry);
  }

  #set(entry, status, reason = "") {
    Object.assign(entry, { status, reason });
    this.changed();
  }

  #next() {
    let free = atOnce - this.list.filter((entry) => entry.status === "sending").length;
    for (const entry of this.list) {
      if (free > 0 && entry.status === "waiting") {
        free -= 1;
        this.#send(entry);
      }
    }
    this.changed();
  }

  // Not by fetch(), which tells nothing of what has been sent.
  #send(entry) {
    const sending = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", entry.file, entry.file.name);
    entry.request = sending;
    sending.open("POST", "/api/media");
    sending.setRequestHeader("Authorization", `Bearer ${this.token()}`);
    sending.setRequestHeader("Idempotency-Key", entry.key);
    sending.responseType = "json";
    sending.upload.onprogress = ({ loaded, total }) => {
      entry.sent = total ? loaded / total : 0;
      this.changed();
    };
    sending.onload = () => {
      const { status, response } = sending;
      if (status === 202 && response) {
        this.list = this.list.filter((other) => other !== entry);
        this.done(response);
      } else {
        this.#failed(entry, new Problem(status, response?.detail || `The answer was ${status}.`));
      }
      this.#next();
    };
    sending.onerror = () => {
      this.#failed(entry, new Problem(0, "The service cannot be reached."));
      this.#next();
    };
    this.#set(entry, "sending");
    sending.send(form);
  }

  #failed(entry, problem) {
    entry.sent = 0;
    if (!problem.temporary || entry.backoff.tries >= tries) {
      this.#set(entry, "failed", problem.message);
      return;
    }
    this.#set(entry, "pausing", problem.message);
    entry.timer = setTimeout(() => {
      this.#set(entry, "waiting");
      this.#next();
    }, entry.backoff.next());
  }
}
