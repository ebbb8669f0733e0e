// Changes of own items: told by the WebSocket, and looked for every few seconds while that is away.

import { Backoff } from "../common/backoff.js";
import { request } from "../common/request.js";

const lookMilliseconds = 3000;
const tokenEnded = 4401;

// Events: `change` with {id, status, progress}; `look`, when all items may have changed; `state`;
// `ended`, when the token is no longer good.
export class Live extends EventTarget {
  constructor() {
    super();
    this.token = "";
    this.connected = false;
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
    clearTimeout(this.timer);
    clearInterval(this.looking);
    this.looking = undefined;
    if (this.socket) {
      this.socket.onclose = this.socket.onmessage = this.socket.onopen = null;
      this.socket.close();
    }
    this.socket = undefined;
    this.#is(false);
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const query = this.cursor === undefined ? "" : `?cursor=${encodeURIComponent(this.cursor)}`;
    this.socket = new WebSocket(`${scheme}//${location.host}/ws/media${query}`, ["bearer", this.token]);
    this.socket.onopen = () => {
      this.backoff.reset();
      clearInterval(this.looking);
      this.looking = undefined;
      this.#is(true);
    };
    this.socket.onmessage = ({ data }) => {
      const { id, status, progress, cursor } = JSON.parse(data);
      this.cursor = cursor;
      if (status === "reset" || id === null) this.dispatchEvent(new Event("look"));
      else this.dispatchEvent(new CustomEvent("change", { detail: { id, status, progress } }));
    };
    this.socket.onclose = ({ code }) => this.#closed(code);
  }

  async #closed(code) {
    const { token } = this;
    this.socket = undefined;
    this.#is(false);
    this.looking ??= setInterval(() => this.dispatchEvent(new Event("look")), lookMilliseconds);
    const ended = code === tokenEnded || (await refused(token));
    if (token !== this.token) return;
    if (ended) this.dispatchEvent(new Event("ended"));
    else this.timer = setTimeout(() => this.#connect(), this.backoff.next());
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
