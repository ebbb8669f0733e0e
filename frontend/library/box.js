// Where files are chosen or dropped, and how far those are that are on their way.

import { html, nothing } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";

// `isShown` tells whether files may be dropped just now. Calls `changed` whenever there is something to
// show, `failed` with what was not done.
export class Box {
  constructor(uploads, { isShown, changed, failed }) {
    Object.assign(this, { uploads, isShown, changed, failed });
    this.over = false;
    for (const type of ["dragover", "dragleave", "drop"]) addEventListener(type, (event) => this.#dragged(event));
  }

  // Wherever it is: a browser would leave the page for a file that is dropped beside the box.
  #dragged(event) {
    const { type, dataTransfer, relatedTarget } = event;
    if (!dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    if (!this.isShown()) return;
    const over = type === "dragover" || Boolean(type === "dragleave" && relatedTarget); // another part of the page
    if (over !== this.over) {
      this.over = over;
      this.changed();
    }
    if (type === "drop") this.#dropped(dataTransfer);
  }

  #dropped({ items }) {
    const all = [...items].filter(({ kind }) => kind === "file");
    const files = all.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory);
    if (files.length < all.length) this.failed("Folders are not uploaded: drop the files that are in them.");
    this.uploads.add(files.map((item) => item.getAsFile()));
  }

  #chosen({ target }) {
    this.uploads.add(target.files);
    target.value = ""; // the same file may be chosen again
  }

  view() {
    const { list } = this.uploads;
    return html`
      <div class="card drop" data-over=${this.over}>
        <label for="files">Drop files here, or <span class="button">choose some</span></label>
        <input id="files" class="unseen" type="file" multiple @change=${(event) => this.#chosen(event)}>
      </div>
      ${list.length
        ? html`<ul class="uploads" aria-label="Uploads">${repeat(list, ({ key }) => key, (entry) => this.#row(entry))}</ul>`
        : nothing}`;
  }

  #row(entry) {
    const { uploads } = this;
    const words = {
      waiting: entry.reason ? `${entry.reason} Trying again.` : "waits",
      sending: `${Math.round(entry.sent * 100)} %`,
      failed: entry.reason,
      stopped: "cancelled",
    };
    const name = html`<span class="unseen"> ${entry.file.name}</span>`;
    const ended = entry.status === "failed" || entry.status === "stopped";
    return html`
      <li class="upload" data-status=${entry.status}>
        <span class="name">${entry.file.name}</span>
        <progress max="1" .value=${entry.sent} aria-label="Upload of ${entry.file.name}"></progress>
        <span class=${entry.status === "failed" ? "mistake" : "quiet-text"}>${words[entry.status]}</span>
        ${ended
          ? html`<button @click=${() => uploads.retry(entry)}>Retry${name}</button>
              <button class="quiet" @click=${() => uploads.dismiss(entry)}>Dismiss${name}</button>`
          : html`<button class="quiet" @click=${() => uploads.stop(entry)}>Cancel${name}</button>`}
      </li>`;
  }
}
