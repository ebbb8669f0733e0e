// Changes of own items: told by the WebSocket, and looked for every few seconds while that is away.

import { Backoff } from "../common/backoff.js";
import { request } from "../common/request.js";

const lookMilliseconds = 3000;
const handshakeMilliseconds = 10_000;
const silentMilliseconds = 30_000; // a socket that told nothing for so long may be dead
const doubtMilliseconds = 300_000; // how often that is looked into where nobody looks up
const tokenEnded = 4401;

// `state` is connecting until the first handshake has come to something, then live or away.
// Events: `change` with {id, status, progress}; `look`, when all items may have changed; `state`;
// `ended`, when the token is no longer good.
export class Live extends EventTarget {
  constructor() {
    super();
    this.token = "";
    this.state = "connecting";
    this.heard = 0;
    addEventListener("online", () => this.#wake(0));
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#wake(silentMilliseconds);
    });
    setInterval(() => this.#doubt(), doubtMilliseconds);
  }

  start(token) {
    this.stop();
    this.token = token;
    this.cursor = undefined;
    this.backoff = new Backoff(1000, 15000);
    this.#connect();
  }

  stop() {
    this.token = "";
    this.#drop();
    this.#endPolling();
    this.#is("connecting");
  }

  // While a machine slept or changed networks, a socket may have lost its other end and not know it.
  #wake(silence) {
    if (!this.token) return;
    this.#look();
    if (this.socket && Date.now() - this.heard < silence) return;
    this.backoff.reset();
    this.#drop();
    this.#connect();
  }

  // A network may also go away without a word to this machine, and no page sees the service's pings. The
  // next socket is told what this one was not. It waits until the service knows that this one is closed:
  // an account may have only so many.
  #doubt() {
    const silent = Date.now() - this.heard >= silentMilliseconds;
    if (this.state !== "live" || !this.socket || !silent || document.visibilityState !== "visible") return;
    this.#drop();
    this.#connectLater();
  }

  #look() {
    this.dispatchEvent(new Event("look"));
  }

  #poll() {
    this.polled = true;
    this.#look();
  }

  #endPolling() {
    clearInterval(this.polling);
    this.polling = undefined;
    this.polled = false;
  }

  #drop() {
    clearTimeout(this.timer);
    if (!this.socket) return;
    this.socket.onclose = this.socket.onmessage = this.socket.onopen = null;
    this.socket.close();
    this.socket = undefined;
  }

  #connect() {
    this.polling ??= setInterval(() => this.#poll(), lookMilliseconds);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const query = this.cursor === undefined ? "" : `?cursor=${encodeURIComponent(this.cursor)}`;
    const socket = new WebSocket(`${scheme}//${location.host}/ws/media${query}`, ["bearer", this.token]);
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#told(JSON.parse(data));
    socket.onclose = ({ code }) => this.#closed(code);
    this.socket = socket;
    this.heard = Date.now();
    this.timer = setTimeout(() => socket.close(), handshakeMilliseconds);
  }

  #opened() {
    clearTimeout(this.timer);
    this.heard = Date.now();
    this.backoff.reset();
    if (this.polled) this.#look(); // what the last poll said may no longer be so
    this.#endPolling();
    this.#is("live");
  }

  #told({ id, status, progress, cursor }) {
    this.heard = Date.now();
    this.cursor = cursor;
    if (status === "reset") this.#look();
    else this.dispatchEvent(new CustomEvent("change", { detail: { id, status, progress } }));
  }

  async #closed(code) {
    const { token } = this;
    this.#drop();
    this.polling ??= setInterval(() => this.#poll(), lookMilliseconds);
    this.#is("away");
    const ended = code === tokenEnded || (await refused(token));
    if (token !== this.token || this.socket) return;
    if (ended) this.dispatchEvent(new Event("ended"));
    else this.#connectLater();
  }

  #connectLater() {
    clearTimeout(this.timer); // of a socket that was closed before
    this.timer = setTimeout(() => this.#connect(), this.backoff.next());
  }

  #is(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

// A browser does not tell why a handshake was refused.
async function refused(token) {
  try {
    await request("GET", "/api/accounts/me", { token });
    return false;
  } catch (error) {
    return error.status === 401;
  }
}
