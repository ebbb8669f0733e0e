// Who is logged in, in every tab of this browser. Whether a token is still good only the service
// knows: no clock of this machine is asked.

const key = "service.session";

export class Session extends EventTarget {
  constructor() {
    super();
    this.read();
    addEventListener("storage", (event) => {
      if (event.key !== key && event.key !== null) return;
      this.read();
      this.dispatchEvent(new Event("change"));
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

  begin(token, email) {
    Object.assign(this, { token, email });
    try {
      localStorage.setItem(key, JSON.stringify({ token, email }));
    } catch {
      // see above
    }
    this.dispatchEvent(new Event("change"));
  }

  end() {
    Object.assign(this, { token: "", email: "" });
    try {
      localStorage.removeItem(key);
    } catch {
      // see above
    }
    this.dispatchEvent(new Event("change"));
  }
}
