// API keys of an account.

import { html, nothing } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";
import { moment } from "../common/format.js";
import { serverTime } from "../common/request.js";
import { alarm } from "./alarm.js";

// Calls `changed` whenever there is something to show, `said` with what was done, and `failed` with what
// was not and, where there is one, the Problem.
export class Keys {
  constructor({ ask, changed, said, failed }) {
    Object.assign(this, { ask, changed, said, failed });
    this.clear();
  }

  clear() {
    Object.assign(this, { all: null, problem: "", made: null });
  }

  // The one that was made is shown no more.
  hide() {
    this.made = null;
  }

  async list() {
    try {
      this.all = (await this.ask("GET", "/api/keys")).items;
      this.problem = "";
    } catch (error) {
      if (error.late) return;
      this.problem = error.message;
    }
    this.changed();
  }

  async #make({ name, write, days }, form) {
    const expires = days ? new Date(serverTime() + days * 86_400_000).toISOString() : null;
    const json = { name, scopes: write ? ["read", "write"] : ["read"], expires_at: expires };
    this.made = await this.ask("POST", "/api/keys", { json });
    form.reset();
    await this.list();
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.made.key);
      this.said("Copied.");
    } catch {
      this.failed("This browser lets no page copy here: select the key and copy it.");
    }
    this.changed();
  }

  async #revoke(key) {
    if (!confirm(`Revoke ${key.name}? Programs that use it are refused from now on.`)) return;
    try {
      await this.ask("DELETE", `/api/keys/${key.id}`);
      this.said(`${key.name} is revoked.`);
    } catch (error) {
      this.failed(`${key.name} is not revoked`, error);
    }
    await this.list();
  }

  view(form) {
    return html`
      <h2>API keys</h2>
      <p>For programs: they go where a token goes, <code>Authorization: Bearer KEY</code>.</p>
      ${this.made ? this.#new(this.made) : nothing}
      <form class="card entrance" @submit=${(event) => form.submit(event, (...filled) => this.#make(...filled))}>
        <label for="name">What it is for</label>
        <input id="name" name="name" maxlength="100" required>
        <label><input type="checkbox" name="write"> It may change things</label>
        <label for="days">Good for days</label>
        <input id="days" name="days" type="number" min="1" max="3650" placeholder="for ever">
        ${form.answer()}
        <button aria-disabled=${form.busy}>Make a key</button>
      </form>
      ${alarm(this.problem)}
      ${!this.all
        ? html`<p>${this.problem ? "" : "Looking …"}</p>`
        : !this.all.length
          ? html`<p>There are none.</p>`
          : this.#table()}`;
  }

  #new({ name, key }) {
    const done = () => {
      this.hide();
      this.changed();
    };
    return html`
      <div class="verdict" data-kind="good" role="status">
        <p>This is <strong>${name}</strong>. It is shown this once:</p>
        <p><code>${key}</code></p>
        <button class="quiet" @click=${() => this.#copy()}>Copy</button>
        <button class="quiet" @click=${done}>I have it</button>
      </div>`;
  }

  #table() {
    return html`
      <div class="scrolled" tabindex="0" role="region" aria-label="Table of API keys"><table>
        <thead><tr><th scope="col">Name</th><th scope="col">Ends with</th><th scope="col">May</th>
          <th scope="col">Last used</th><th scope="col">Good until</th><th scope="col"><span class="unseen">Actions</span></th></tr></thead>
        <tbody>${repeat(this.all, (key) => key.id, (key) => html`<tr>
          <th scope="row">${key.name}</th>
          <td><code>…${key.ending}</code></td>
          <td>${key.scopes.join(", ")}</td>
          <td>${moment(key.last_used_at) || "never"}</td>
          <td>${moment(key.expires_at) || "for ever"}</td>
          <td><button class="quiet" @click=${() => this.#revoke(key)}>Revoke<span class="unseen"> ${key.name}</span></button></td>
        </tr>`)}</tbody></table></div>`;
  }
}
