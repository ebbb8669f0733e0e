// Files on their way: a few at once, each under a key of its own, so that one that is sent again is
// never there twice.

import { Backoff } from "../common/backoff.js";
import { exactly } from "../common/format.js";
import { Patience } from "../common/patience.js";
import { Problem, unreachable, unreadable } from "../common/request.js";

const atOnce = 3;
const tries = 6;
const stillMilliseconds = 60_000; // an upload of which nothing has moved for so long goes nowhere
const answerMilliseconds = 180_000; // longer than nginx waits for the app, behind a line with much still in it

// `status` is waiting, sending, failed or stopped. Calls `token` for what to send with, nothing while
// nobody is logged in; `done` with a new item; `changed` whenever there is something to show; `ended`
// where the token is refused.
export class Uploads {
  constructor(largest, { token, done, changed, ended }) {
    Object.assign(this, { largest, token, done, changed, ended });
    this.list = [];
    this.backoff = new Backoff(1000, 15000);
    this.pause = undefined; // the timer that ends it
  }

  get pending() {
    return this.list.some(({ status }) => status === "sending" || status === "waiting");
  }

  add(files) {
    for (const file of files) {
      const entry = { file, key: newKey() };
      this.list.push(entry);
      this.#queue(entry);
    }
    this.resume();
  }

  stop(entry) {
    entry.request?.abort();
    set(entry, "stopped");
    this.resume();
  }

  retry(entry) {
    this.#queue(entry);
    this.resume();
  }

  dismiss(entry) {
    this.#leave(entry);
    this.resume();
  }

  clear() {
    for (const { request } of this.list) request?.abort();
    this.list = [];
    clearTimeout(this.pause);
    this.pause = undefined;
    this.backoff.reset();
    this.changed();
  }

  resume() {
    if (!this.pause && this.token()) this.#sendNext();
    this.changed();
  }

  // What is too large is not sent: a browser may lose the answer that refuses it.
  #queue(entry) {
    const { size } = entry.file;
    entry.tries = 0;
    if (size <= this.largest) set(entry, "waiting");
    else set(entry, "failed", `Too large: it has ${exactly(size)}, and at most ${exactly(this.largest)} are taken.`);
  }

  #leave(entry) {
    this.list = this.list.filter((other) => other !== entry);
  }

  #sendNext() {
    const free = atOnce - this.list.filter((entry) => entry.status === "sending").length;
    const waiting = this.list.filter((entry) => entry.status === "waiting");
    for (const entry of waiting.slice(0, free)) this.#send(entry);
  }

  // Not by fetch(), which tells nothing of what has been sent.
  #send(entry) {
    const sending = new XMLHttpRequest();
    const form = new FormData();
    const token = this.token();
    const lost = () => {
      this.#failed(entry, unreachable(), token);
      this.resume();
    };
    const patience = new Patience(() => {
      sending.abort();
      lost();
    });
    form.append("file", entry.file, entry.file.name);
    entry.request = sending;
    sending.open("POST", "/api/media");
    sending.setRequestHeader("Authorization", `Bearer ${token}`);
    sending.setRequestHeader("Idempotency-Key", entry.key);
    sending.responseType = "json";
    sending.upload.onprogress = ({ loaded, total }) => {
      patience.atMost(stillMilliseconds);
      entry.sent = total ? loaded / total : 0;
      this.changed();
    };
    sending.upload.onload = () => patience.atMost(answerMilliseconds);
    sending.onload = () => {
      if (sending.status === 202 && sending.response) this.#arrived(entry, sending.response);
      else this.#failed(entry, problemOf(sending), token);
      this.resume();
    };
    sending.onerror = lost;
    sending.onloadend = () => patience.end();
    set(entry, "sending");
    sending.send(form);
    patience.atMost(stillMilliseconds);
  }

  #arrived(entry, item) {
    this.backoff.reset();
    this.#leave(entry);
    this.done(item);
  }

  #failed(entry, problem, token) {
    const { status, message } = problem;
    if (status === 401) {
      set(entry, "waiting"); // for another login
      if (token === this.token()) this.ended();
      return;
    }
    const untried = status === 429 || status === 503; // nobody has looked at it
    if (!untried) entry.tries += 1;
    if (!problem.temporary || entry.tries >= tries) {
      set(entry, "failed", message);
      return;
    }
    set(entry, "waiting", message);
    this.#pause(problem);
  }

  // For all of them, as the others would fare no better.
  #pause({ waitMilliseconds }) {
    this.pause ??= setTimeout(() => {
      this.pause = undefined;
      this.resume();
    }, this.backoff.next(waitMilliseconds));
  }
}

function set(entry, status, reason = "") {
  Object.assign(entry, { status, reason, sent: 0 });
}

function problemOf(answer) {
  const { status, response } = answer;
  if (status < 300) return unreadable();
  const retryAfter = answer.getResponseHeader("Retry-After");
  return new Problem(status, response?.detail || `The answer was ${status}.`, { retryAfter });
}

// Not randomUUID(), which pages that came without TLS have not.
function newKey() {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}
