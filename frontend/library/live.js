// Changes of own items: told by the WebSocket, and looked for every few seconds while that is away.

import { Backoff } from "../common/backoff.js";
import { request } from "../common/request.js";

const lookMilliseconds = 3000;
const handshakeMilliseconds = 10_000;
const silentMilliseconds = 30_000; // a socket that told nothing for so long may be dead
const tokenEnded = 4401;

// Events: `change` with {id, status, progress}; `look`, when all items may have changed; `state`;
// `ended`, when the token is no longer good.
export class Live extends EventTarget {
  constructor() {
    super();
    this.token = "";
    this.connected = false;
    this.heard = 0;
    addEventListener("online", () => this.#wake(0));
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#wake(silentMilliseconds);
    });
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
    this.#is(false);
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
    this.#is(true);
  }

  #told({ id, status, progress, cursor }) {
    this.heard = Date.now();
    this.cursor = cursor;
    if (status === "reset" || id === null) this.#look();
    else this.dispatchEvent(new CustomEvent("change", { detail: { id, status, progress } }));
  }

  async #closed(code) {
    const { token } = this;
    this.#drop();
    this.polling ??= setInterval(() => this.#poll(), lookMilliseconds);
    this.#is(false);
    const ended = code === tokenEnded || (await refused(token));
    if (token !== this.token || this.socket) return;
    if (ended) this.dispatchEvent(new Event("ended"));
    else this.#connectLater();
  }

  #connectLater() {
    clearTimeout(this.timer); // of a socket that was closed before
    this.timer = setTimeout(() => this.#connect(), this.backoff.next());
  }

  #is(connected) {
    if (connected === this.connected) return;
    this.connected = connected;
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
