// The library: an account's items, and what all have made public.

import { html, nothing, render } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";
import { live as fresh } from "lit-html/directives/live.js";
import { Backoff, pause } from "./common/backoff.js";
import { bytes, exactly } from "./common/format.js";
import { Problem, request, serverTime } from "./common/request.js";
import { keepFocus } from "./library/focus.js";
import { Live } from "./library/live.js";
import { Pictures, download } from "./library/pictures.js";
import { Session } from "./library/session.js";
import { Uploads } from "./library/uploads.js";

const pageItems = 100;
const undoMilliseconds = 6000;
const againMilliseconds = 500;
const againSlowlyMilliseconds = 30_000;
const loginEnded = "Your login has ended. Log in again.";
const views = { mine, gallery, keys, login, join: joinForm, forgot: forgotForm };

const place = document.getElementById("library");
const session = new Session();
const changes = new Live();
const pictures = new Pictures(draw);
const uploads = new Uploads(Number(place.dataset.largest), {
  token: () => session.token,
  done: received,
  changed: draw,
  ended: () => logOut(loginEnded),
});

const state = {
  view: "",
  items: new Map(), // own, newest first
  next: null, // the cursor of the page behind them
  wanted: 0, // how many of them at least
  loaded: false,
  problem: "",
  gallery: { items: [], next: null, loaded: false, problem: "", readOn: false },
  keys: null,
  keysProblem: "",
  newKey: null,
  opened: null, // the id of the item whose details are shown
  leaving: new Map(), // items on their way out: there is time to undo it, until it is `sent`
  form: emptyForm(), // of this visit of the view
  said: "",
  failed: "",
  dragging: false,
};

function emptyForm() {
  return { busy: false, mistake: "", done: "" };
}

// --- asking -----------------------------------------------------------------------------------

// Raises a Problem; one that is `late` where somebody else has logged in meanwhile, or nobody.
async function ask(method, path, options = {}) {
  const { token } = session;
  let answer;
  try {
    answer = await request(method, path, { token, ...options });
  } catch (error) {
    if (error.status === 401 && token && token === session.token) logOut(loginEnded);
    throw token === session.token ? error : late();
  }
  if (token !== session.token) throw late();
  return answer;
}

function late() {
  return Object.assign(new Problem(0, "Somebody else has logged in."), { late: true });
}

// What was not done, for all to see.
function tellFailure(what, error) {
  if (!error.late) state.failed = `${what}: ${error.message}`;
}

// A page of the list. What is refused as one too many is asked for again, once it may be: a long list
// that began anew then would never come to its end.
async function ownPage(cursor) {
  const { token } = session;
  const from = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
  while (token === session.token) {
    try {
      const { data } = await ask("GET", `/api/media?limit=${pageItems}${from}`);
      lookBackoff.reset();
      return data;
    } catch (error) {
      if (error.status !== 429) throw error;
      await Promise.race([pause(lookBackoff.next(error.waitMilliseconds)), anotherLogin()]);
    }
  }
  throw late();
}

function anotherLogin() {
  return new Promise((resolve) => session.addEventListener("change", resolve, { once: true }));
}

// As many pages as are shown, or wanted.
async function list() {
  clearTimeout(nextLook);
  nextLook = undefined;
  const kept = [];
  const wanted = Math.max(1, state.items.size, state.wanted);
  let next = null;
  try {
    do {
      const page = await ownPage(next);
      kept.push(...page.items);
      next = page.next_cursor;
    } while (next && kept.length < wanted);
    kept.forEach(tellEnd);
    state.items = new Map(kept.map((item) => [item.id, item]));
    Object.assign(state, { next, loaded: true, problem: "" });
  } catch (error) {
    if (error.late) return;
    state.problem = error.message;
    lookLater(error);
  }
  draw();
}

let looking = false;
let lookAgain = false;
let nextLook; // the timer of a look after one that failed
const lookBackoff = new Backoff(1000, 15000);

// What is shown anew: one look at a time, however often there is reason for one.
async function look() {
  if (looking) {
    lookAgain = true;
    return;
  }
  looking = true;
  await list();
  while (lookAgain && session.token && !nextLook) {
    lookAgain = false;
    await pause(againMilliseconds);
    await list();
  }
  looking = lookAgain = false;
}

function lookLater(error) {
  if (error.temporary && !error.late) nextLook ??= setTimeout(look, lookBackoff.next(error.waitMilliseconds));
}

function showMore() {
  state.wanted = state.items.size + 1;
  look();
}

// What a list that is under way has read may be from before.
function overtakes() {
  lookAgain = looking;
}

async function changed({ id, status, progress }) {
  if (status === "deleted") {
    overtakes();
    const item = state.items.get(id);
    if (item) pictures.forget(item);
    state.items.delete(id);
  } else if (state.items.has(id) && isBusy({ status })) {
    Object.assign(state.items.get(id), { status, progress });
  } else {
    await refresh(id);
  }
  draw();
}

// Steps of an item may overtake each other on their way: what was asked for last counts.
const asked = new Map();

async function refresh(id) {
  const turn = (asked.get(id) || 0) + 1;
  asked.set(id, turn);
  try {
    const { data } = await ask("GET", `/api/media/${id}`);
    if (asked.get(id) !== turn) return;
    overtakes();
    tellEnd(data);
    put(data);
  } catch (error) {
    if (error.status === 404) state.items.delete(id);
    lookLater(error); // the socket tells of it but once
  }
}

// To who does not see it.
function tellEnd(item) {
  const before = state.items.get(item.id);
  if (before && isBusy(before) && !isBusy(item)) state.said = `${item.title}: ${statusWords[item.status]}.`;
}

// In its place; what is older than all that is shown comes with its page.
function put(item) {
  const known = state.items.has(item.id);
  state.items.set(item.id, item);
  if (known) return;
  const items = [...state.items.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
  if (state.next && items.at(-1) === item) items.pop();
  state.items = new Map(items.map((each) => [each.id, each]));
}

function received(item) {
  overtakes();
  if (!state.items.has(item.id)) put(item);
  state.said = `${item.title} was uploaded.`;
  draw();
}

let galleryTurn = 0; // what was asked for last counts

async function listGallery({ more = false } = {}) {
  const { gallery } = state;
  const turn = (galleryTurn += 1);
  const cursor = more ? `?cursor=${encodeURIComponent(gallery.next)}` : "";
  gallery.readOn = more;
  try {
    // Not from this browser's own cache, where what was just published is not.
    const { data } = await request("GET", `/api/public/media${cursor}`, { cache: "no-cache" });
    if (turn !== galleryTurn) return;
    gallery.items = more ? [...gallery.items, ...data.items] : data.items;
    Object.assign(gallery, { next: data.next_cursor, loaded: true, problem: "" });
  } catch (error) {
    if (turn !== galleryTurn) return;
    gallery.problem = error.message;
  }
  draw();
}

async function change(item, body) {
  try {
    const { data } = await ask("PATCH", `/api/media/${item.id}`, { json: body });
    overtakes();
    state.items.set(item.id, data);
    Object.assign(state, { said: "Saved.", failed: "" });
  } catch (error) {
    tellFailure("Not saved", error);
  }
  draw(); // and what was not saved is as it was
}

function remove(item) {
  state.opened = null;
  const timer = setTimeout(() => finishRemoval(item.id), undoMilliseconds);
  state.leaving.set(item.id, { item, timer, token: session.token, sent: false });
  state.said = `${item.title} is deleted.`;
  draw();
}

function undo(id) {
  const { item, timer } = state.leaving.get(id);
  clearTimeout(timer);
  state.leaving.delete(id);
  state.said = `${item.title} is back.`;
  draw();
}

// Also after its owner has logged out, or left the page: it was said to be deleted.
async function finishRemoval(id) {
  const entry = state.leaving.get(id);
  if (entry.sent) return;
  const { item, timer, token } = entry;
  entry.sent = true;
  clearTimeout(timer);
  draw();
  try {
    await request("DELETE", `/api/media/${id}`, { token, keepalive: true });
    pictures.forget(item);
    state.items.delete(id);
  } catch (error) {
    if (error.status === 404) state.items.delete(id);
    else tellFailure(`${item.title} is not deleted`, error);
  }
  overtakes();
  state.leaving.delete(id);
  draw();
}

function finishRemovals() {
  return Promise.all([...state.leaving.keys()].map(finishRemoval));
}

// --- accounts ---------------------------------------------------------------------------------

async function submit(event, act) {
  event.preventDefault();
  const { form } = state;
  if (form.busy) return;
  const fields = Object.fromEntries(new FormData(event.target));
  Object.assign(form, { busy: true, mistake: "", done: "" });
  draw();
  try {
    form.done = (await act(fields, event.target)) || "";
  } catch (error) {
    if (!error.late) form.mistake = error.message;
  }
  form.busy = false;
  draw();
}

async function logIn({ email, password }) {
  const form = new URLSearchParams({ username: email, password });
  const { data } = await request("POST", "/login", { form }).catch((error) => {
    if (error.status === 401) error.message = "Address and password do not fit, or the account is not confirmed.";
    throw error;
  });
  session.begin(data.access_token, email);
  location.hash = "mine";
}

async function join({ email, password }) {
  await request("POST", "/api/accounts", { json: { email, password } });
  return `A mail is on its way to ${email}. Its link confirms the account; then log in.`;
}

async function forget({ email }) {
  await request("POST", "/api/accounts/password/forgot", { json: { email } });
  return `If ${email} has an account, a mail is on its way. Its link is good for an hour.`;
}

async function leave() {
  const { token } = session;
  uploads.clear();
  const removals = finishRemovals();
  session.end();
  await removals; // with the token that now ends
  await request("POST", "/logout", { token }).catch(() => {}); // it is forgotten here in any case
}

function logOut(reason) {
  session.end();
  if (session.token) return; // of another tab's login
  location.hash = "login";
  go();
  state.form.mistake = reason;
  draw();
}

async function listKeys() {
  try {
    state.keys = (await ask("GET", "/api/keys")).data.items;
    state.keysProblem = "";
  } catch (error) {
    if (error.late) return;
    state.keysProblem = error.message;
  }
  draw();
}

async function makeKey({ name, write, days }, form) {
  const expires = days ? new Date(serverTime() + days * 86_400_000).toISOString() : null;
  const json = { name, scopes: write ? ["read", "write"] : ["read"], expires_at: expires };
  state.newKey = (await ask("POST", "/api/keys", { json })).data;
  form.reset();
  await listKeys();
}

async function copyKey() {
  try {
    await navigator.clipboard.writeText(state.newKey.key);
    state.said = "Copied.";
  } catch {
    state.failed = "This browser lets no page copy here: select the key and copy it.";
  }
  draw();
}

async function revoke(key) {
  if (!confirm(`Revoke ${key.name}? Programs that use it are refused from now on.`)) return;
  try {
    await ask("DELETE", `/api/keys/${key.id}`);
    state.said = `${key.name} is revoked.`;
  } catch (error) {
    tellFailure(`${key.name} is not revoked`, error);
  }
  await listKeys();
}

// --- showing ----------------------------------------------------------------------------------

function picture(item) {
  const address = pictures.address(item, session.token);
  return address
    ? html`<img src=${address} alt="" loading="lazy">`
    : html`<span class="no-picture" aria-hidden="true">${kindOf(item)}</span>`;
}

function kindOf(item) {
  const name = item.filename || decodeURIComponent(item.url.split("/").pop());
  const ending = /\.([a-z0-9]{1,5})$/i.exec(name);
  return ending ? ending[1].toUpperCase() : "FILE";
}

const statusWords = {
  received: "waiting",
  processing: "being processed",
  ready: "ready",
  failed: "could not be processed",
};

function isBusy({ status }) {
  return status === "received" || status === "processing";
}

function ownItem(item) {
  return html`
    <li class="card item" data-status=${item.status}>
      <button class="picture" @click=${() => openDetails(item)} aria-label="Details of ${item.title}">${picture(item)}</button>
      <h3>${item.title}</h3>
      <p class="quiet-text">${bytes(item.size)}${item.public ? ", public" : ""}</p>
      ${isBusy(item)
        ? html`<label class="quiet-text">${statusWords[item.status]}
            <progress max="100" .value=${item.progress}></progress></label>`
        : item.status === "failed"
          ? html`<p class="mistake">${item.reason || statusWords.failed}</p>`
          : nothing}
    </li>`;
}

function publicItem(item) {
  return html`
    <li class="card item">
      <a class="picture" href=${item.url}>${picture(item)}</a>
      <h3>${item.title}</h3>
      <p class="quiet-text">${bytes(item.size)}</p>
    </li>`;
}

function uploadRow(entry) {
  const words = {
    waiting: entry.reason ? `${entry.reason} Trying again.` : "waits",
    sending: `${Math.round(entry.sent * 100)} %`,
    failed: entry.reason,
    stopped: "cancelled",
  };
  const ended = entry.status === "failed" || entry.status === "stopped";
  return html`
    <li class="upload" data-status=${entry.status}>
      <span class="name">${entry.file.name}</span>
      <progress max="1" .value=${entry.sent} aria-label="Upload of ${entry.file.name}"></progress>
      <span class=${entry.status === "failed" ? "mistake" : "quiet-text"}>${words[entry.status]}</span>
      ${ended
        ? html`<button @click=${() => uploads.retry(entry)}>Retry<span class="unseen"> ${entry.file.name}</span></button>
            <button class="quiet" @click=${() => uploads.dismiss(entry)}>Dismiss<span class="unseen"> ${entry.file.name}</span></button>`
        : html`<button class="quiet" @click=${() => uploads.stop(entry)}>Cancel<span class="unseen"> ${entry.file.name}</span></button>`}
    </li>`;
}

function chosen(event) {
  uploads.add(event.target.files);
  event.target.value = ""; // the same file may be chosen again
}

function dropped({ items }) {
  const all = [...items].filter(({ kind }) => kind === "file");
  const files = all.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory);
  if (files.length < all.length) state.failed = "Folders are not uploaded: drop the files that are in them.";
  uploads.add(files.map((item) => item.getAsFile()));
}

// Wherever it is: a browser would leave the page for a file that is dropped beside the box.
function dragged(event) {
  const { type, dataTransfer, relatedTarget } = event;
  if (!dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  if (state.view !== "mine") return;
  const over = type === "dragover" || Boolean(type === "dragleave" && relatedTarget); // another part of the page
  if (over !== state.dragging) {
    state.dragging = over;
    draw();
  }
  if (type === "drop") dropped(dataTransfer);
}

function mine() {
  const items = [...state.items.values()].filter((item) => !state.leaving.has(item.id));
  return html`
    <div class="card drop" data-over=${state.dragging}>
      <label for="files">Drop files here, or <span class="button">choose some</span></label>
      <input id="files" class="unseen" type="file" multiple @change=${chosen}>
    </div>
    ${uploads.list.length
      ? html`<ul class="uploads" aria-label="Uploads">${repeat(uploads.list, (entry) => entry.key, uploadRow)}</ul>`
      : nothing}
    <p class="quiet-text" role="status" data-live=${changes.connected}>
      ${changes.connected ? "Live: changes show as they happen." : "Live updates are away: looked for every few seconds."}
    </p>
    <h2 class="unseen">Your items</h2>
    ${listed(state, items, ownItem, "Nothing here yet.")}
    ${state.next ? html`<p><button class="quiet" @click=${showMore}>Show more</button></p>` : nothing}`;
}

function gallery() {
  const { items, next } = state.gallery;
  return html`
    <h2>What all have made public</h2>
    ${listed(state.gallery, items, publicItem, "Nothing is public yet.")}
    ${next ? html`<p><button class="quiet" @click=${() => listGallery({ more: true })}>Show more</button></p>` : nothing}`;
}

function listed({ loaded, problem }, items, card, none) {
  const shown = items.length
    ? html`<ul class="cards items">${repeat(items, (item) => item.id, card)}</ul>`
    : html`<p>${none}</p>`;
  return html`
    ${alarm(problem, items.length ? "What is shown was there before." : "")}
    ${loaded ? shown : problem ? nothing : html`<p>Looking …</p>`}`;
}

function alarm(problem, more = "") {
  return problem ? html`<p class="mistake" role="alert">${problem} ${more}</p>` : nothing;
}

function mistake() {
  const { mistake, done } = state.form;
  return html`
    <p id="mistake" class="mistake" role="alert">${mistake}</p>
    <p role="status">${done}</p>`;
}

function emailField() {
  return html`
    <label for="email">Mail address</label>
    <input id="email" name="email" type="email" autocomplete="username" required aria-describedby="mistake">`;
}

function login() {
  return html`
    <form class="card entrance" @submit=${(event) => submit(event, logIn)}>
      <h2>Log in</h2>
      ${emailField()}
      <label for="password">Password</label>
      <input id="password" name="password" type="password" autocomplete="current-password" required aria-describedby="mistake">
      ${mistake()}
      <button ?disabled=${state.form.busy}>Log in</button>
      <p><a href="#join">Make an account</a> · <a href="#forgot">Forgot the password?</a></p>
    </form>`;
}

function joinForm() {
  return html`
    <form class="card entrance" @submit=${(event) => submit(event, join)}>
      <h2>Make an account</h2>
      ${emailField()}
      <label for="password">Password</label>
      <input id="password" name="password" type="password" autocomplete="new-password" minlength="8" maxlength="1024"
        required aria-describedby="hint mistake">
      <p id="hint" class="quiet-text">Eight characters or more.</p>
      ${mistake()}
      <button ?disabled=${state.form.busy}>Make it</button>
      <p><a href="#login">I have one</a></p>
    </form>`;
}

function forgotForm() {
  return html`
    <form class="card entrance" @submit=${(event) => submit(event, forget)}>
      <h2>A new password</h2>
      ${emailField()}
      ${mistake()}
      <button ?disabled=${state.form.busy}>Mail me a link</button>
      <p><a href="#login">Back</a></p>
    </form>`;
}

function keys() {
  return html`
    <h2>API keys</h2>
    <p>For programs: they go where a token goes, <code>Authorization: Bearer KEY</code>.</p>
    ${state.newKey
      ? html`<div class="verdict" data-kind="good" role="status">
          <p>This is <strong>${state.newKey.name}</strong>. It is shown this once:</p>
          <p><code>${state.newKey.key}</code></p>
          <button class="quiet" @click=${copyKey}>Copy</button>
          <button class="quiet" @click=${() => { state.newKey = null; draw(); }}>I have it</button>
        </div>`
      : nothing}
    <form class="card entrance" @submit=${(event) => submit(event, makeKey)}>
      <label for="name">What it is for</label>
      <input id="name" name="name" maxlength="100" required>
      <label><input type="checkbox" name="write"> It may change things</label>
      <label for="days">Good for days</label>
      <input id="days" name="days" type="number" min="1" max="3650" placeholder="for ever">
      ${mistake()}
      <button ?disabled=${state.form.busy}>Make a key</button>
    </form>
    ${alarm(state.keysProblem)}
    ${!state.keys
      ? html`<p>${state.keysProblem ? "" : "Looking …"}</p>`
      : !state.keys.length
        ? html`<p>There are none.</p>`
        : html`<div class="scrolled" tabindex="0" role="region" aria-label="Table of API keys"><table>
            <thead><tr><th scope="col">Name</th><th scope="col">Ends with</th><th scope="col">May</th>
              <th scope="col">Last used</th><th scope="col">Good until</th><th scope="col"><span class="unseen">Actions</span></th></tr></thead>
            <tbody>${repeat(state.keys, (key) => key.id, (key) => html`<tr>
              <th scope="row">${key.name}</th>
              <td><code>…${key.ending}</code></td>
              <td>${key.scopes.join(", ")}</td>
              <td>${moment(key.last_used_at) || "never"}</td>
              <td>${moment(key.expires_at) || "for ever"}</td>
              <td><button class="quiet" @click=${() => revoke(key)}>Revoke<span class="unseen"> ${key.name}</span></button></td>
            </tr>`)}</tbody></table></div>`}`;
}

function moment(text) {
  return text ? new Date(text).toLocaleString() : "";
}

function openDetails(item) {
  Object.assign(state, { opened: item.id, said: "", failed: "" });
  draw();
}

function details(item) {
  const facts = [
    ["Status", statusWords[item.status]],
    ["Type", item.content_type || "–"],
    ["Size", exactly(item.size)],
    ["Pixels", item.width ? `${item.width} × ${item.height}` : "–"],
    ["File", item.filename],
    ["Uploaded", moment(item.created_at)],
    ["SHA-256", item.sha256 ? html`<code>${item.sha256}</code>` : "–"],
  ];
  const rename = (event) => {
    event.preventDefault();
    const title = event.target.elements.title.value.trim();
    if (title && title !== item.title) change(item, { title });
  };
  const save = () =>
    download(item, session.token).catch((error) => {
      tellFailure("It cannot be downloaded", error);
      draw();
    });
  return html`
    <form class="row" @submit=${rename}>
      <label for="title">Title</label>
      <input id="title" name="title" maxlength="200" required .value=${item.title}>
      <button>Rename</button>
    </form>
    ${item.status === "failed" ? html`<p class="mistake">${item.reason}</p>` : nothing}
    <label><input type="checkbox" .checked=${fresh(item.public)} @change=${(e) => change(item, { public: e.target.checked })}>
      Public: everybody may see it</label>
    ${alarm(state.failed)}
    <p class="quiet-text" role="status">${state.said}</p>
    <dl>${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <p class="row">
      <button @click=${save}>Download</button>
      <button class="quiet" @click=${() => remove(item)}>Delete</button>
      <button class="quiet" @click=${() => { state.opened = null; draw(); }}>Close</button>
    </p>`;
}

function tabs() {
  const links = session.token
    ? [["mine", "Mine"], ["gallery", "Gallery"], ["keys", "API keys"]]
    : [["gallery", "Gallery"], ["login", "Log in"], ["join", "Make an account"]];
  return html`
    <nav class="tabs" aria-label="Library">
      ${links.map(([view, name]) => html`<a href="#${view}" aria-current=${state.view === view ? "page" : nothing}>${name}</a>`)}
      ${session.token
        ? html`<span class="who">${session.email} <button class="quiet" @click=${leave}>Log out</button></span>`
        : nothing}
    </nav>`;
}

function toasts(opened) {
  return html`
    <div class="toasts">
      ${opened || !state.failed
        ? nothing
        : html`<p class="toast" role="alert">${state.failed}
            <button class="quiet" @click=${() => { state.failed = ""; draw(); }}>Close</button></p>`}
      ${repeat(state.leaving, ([id]) => id, ([id, { item, sent }]) => html`
        <p class="toast">${item.title} is deleted.
          ${sent ? nothing : html`<button class="quiet" @click=${() => undo(id)}>Undo</button>`}</p>`)}
    </div>`;
}

let opener = null; // the button whose dialog is open

function draw() {
  if (state.view) keepFocus(place, opener, redraw);
}

// While the dialog is open, all that is not in it can neither be reached nor heard.
function redraw() {
  const item = state.items.get(state.opened);
  render(
    html`
      ${tabs()}
      ${views[state.view]()}
      <dialog aria-label="Details" @close=${() => { state.opened = null; draw(); }}>
        ${item ? [details(item), toasts(item)] : nothing}
      </dialog>
      <p role="status" class="unseen">${state.said}</p>
      ${item ? nothing : toasts()}`,
    place,
  );
  const dialog = place.querySelector("dialog");
  if (item && !dialog.open) {
    opener = document.activeElement;
    dialog.showModal();
  }
  if (!item && dialog.open) dialog.close();
}

// --- going from one to the other --------------------------------------------------------------

function go() {
  const wanted = location.hash.slice(1);
  let to = Object.hasOwn(views, wanted) ? wanted : session.token ? "mine" : "gallery";
  if (!session.token && (to === "mine" || to === "keys")) to = "login";
  if (session.token && (to === "login" || to === "join")) to = "mine";
  if (to !== state.view) {
    if (state.view === "keys") state.newKey = null;
    Object.assign(state, { view: to, form: emptyForm() });
    if (to === "keys") listKeys();
    if (to === "gallery") listGallery();
  }
  draw();
}

function entered() {
  state.view = ""; // also where it is the same one, it is somebody else's
  changes.stop();
  if (session.token && session.email !== uploads.owner) uploads.clear();
  if (session.token) uploads.owner = session.email; // who comes back after a login that ended goes on
  pictures.clear();
  finishRemovals();
  asked.clear();
  clearTimeout(nextLook);
  nextLook = undefined;
  Object.assign(state, { items: new Map(), next: null, wanted: 0, loaded: false, opened: null });
  Object.assign(state, { keys: null, newKey: null, keysProblem: "", problem: "", failed: "" });
  if (session.token) {
    changes.start(session.token);
    look();
    uploads.resume();
  }
  go();
}

changes.addEventListener("look", look);
changes.addEventListener("change", ({ detail }) => changed(detail));
changes.addEventListener("state", draw);
changes.addEventListener("ended", () => logOut(loginEnded));
session.addEventListener("change", entered);
addEventListener("hashchange", go);
// Sooner than that event, or what is typed before it comes is typed into the view that is left.
addEventListener("click", (event) => {
  const { hash } = event.target.closest?.("a[href^='#']") || {};
  if (!hash || !Object.hasOwn(views, hash.slice(1)) || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  location.hash = hash;
  go();
});
for (const type of ["dragover", "dragleave", "drop"]) addEventListener(type, dragged);
addEventListener("pagehide", finishRemovals);
addEventListener("beforeunload", (event) => {
  if (uploads.pending) event.preventDefault();
});
setInterval(() => {
  if (document.visibilityState !== "visible") return;
  if (state.view === "gallery" && !state.gallery.readOn) listGallery(); // who reads on is left in peace
  if (state.view === "keys" && state.keysProblem) listKeys();
}, againSlowlyMilliseconds);

entered();
