// Who is logged in, in every tab of this browser. Whether a token is still good only the service
// knows: no clock of this machine is asked.

const key = "service.session";

export class Session extends EventTarget {
  constructor() {
    super();
    this.read();
    addEventListener("storage", (event) => {
      if (event.key === key || event.key === null) this.#readAnew();
    });
    // A page that was kept behind another one was told of nothing.
    addEventListener("pageshow", ({ persisted }) => {
      if (persisted) this.#readAnew();
    });
  }

  read() {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(key));
    } catch {
      // Not ours, or storage is closed to pages: then a login lasts as long as the tab.
    }
    this.token = kept?.token || "";
    this.email = kept?.email || "";
  }

  #readAnew() {
    this.read();
    this.#changed();
  }

  begin(token, email) {
    Object.assign(this, { token, email });
    try {
      localStorage.setItem(key, JSON.stringify({ token, email }));
    } catch {
      // see above
    }
    this.#changed();
  }

  // Another tab may have logged in anew: that login stays, and is this tab's as well.
  end() {
    const ended = this.token;
    this.read();
    if (this.token === ended) this.#remove();
    this.#changed();
  }

  #remove() {
    Object.assign(this, { token: "", email: "" });
    try {
      localStorage.removeItem(key);
    } catch {
      // see above
    }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
