// What is filled in and sent in one visit of a view, and what is said to it. Its button is disabled in
// name alone while it is busy: one that is in fact loses the focus.

import { html } from "lit-html";

export class Form {
  constructor(changed) {
    Object.assign(this, { changed, busy: false, mistake: "", done: "" });
  }

  // `act` is given the fields and returns what to say. What it raises is said as well.
  async submit(event, act) {
    event.preventDefault();
    if (this.busy) return;
    const fields = Object.fromEntries(new FormData(event.target));
    Object.assign(this, { busy: true, mistake: "", done: "" });
    this.changed();
    try {
      this.done = (await act(fields, event.target)) || "";
    } catch (error) {
      if (!error.late) this.mistake = error.message;
    }
    this.busy = false;
    this.changed();
  }

  answer() {
    return html`
      <p id="mistake" class="mistake" role="alert">${this.mistake}</p>
      <p role="status">${this.done}</p>`;
  }
}
