// The library: an account's items, and what all have made public.

import { html, nothing, render } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";
import { live as fresh } from "lit-html/directives/live.js";
import { bytes, exactly, moment } from "./common/format.js";
import { Problem, request } from "./common/request.js";
import { forgotView, joinView, loginView } from "./library/accounts.js";
import { alarm } from "./library/alarm.js";
import { Box } from "./library/box.js";
import { keepFocus } from "./library/focus.js";
import { Form } from "./library/form.js";
import { Gallery } from "./library/gallery.js";
import { Items, isBusy } from "./library/items.js";
import { Keys } from "./library/keys.js";
import { Live } from "./library/live.js";
import { Pictures, download } from "./library/pictures.js";
import { Removals } from "./library/removals.js";
import { Session } from "./library/session.js";
import { Uploads } from "./library/uploads.js";

const againSlowlyMilliseconds = 30_000;
const loginEnded = "Your login has ended. Log in again.";
const views = {
  mine,
  gallery: galleryView,
  keys: () => keys.view(state.form),
  login: () => loginView(state.form, session),
  join: () => joinView(state.form),
  forgot: () => forgotView(state.form),
};

const place = document.getElementById("library");
const session = new Session();
const changes = new Live();
const pictures = new Pictures(draw);
const own = new Items(session, {
  ask,
  changed: draw,
  settled: (item) => say(`${item.title}: ${statusWords[item.status]}.`),
  gone: (item) => pictures.forget(item),
});
const gallery = new Gallery(draw);
const keys = new Keys({ ask, changed: draw, said: say, failed: tellFailure });
const removals = new Removals({
  isHeld: (id) => place.querySelector(`.toast[data-item="${id}"]:is(:hover, :focus-within)`),
  changed: draw,
  gone: (id) => own.drop(id),
  failed: (item, error) => tellFailure(`${item.title} is not deleted`, error),
});
const uploads = new Uploads(Number(place.dataset.largest), {
  token: () => session.token,
  done: received,
  changed: draw,
  ended: () => logOut(loginEnded),
});
const box = new Box(uploads, { isShown: () => state.view === "mine", changed: draw, failed: tellFailure });

const state = {
  view: "",
  form: new Form(draw), // of this visit of the view
  opened: null, // the id of the item whose details are shown
  said: "",
  failed: "",
};

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

// The same once more is said as another text, or nobody would hear it.
function say(text) {
  state.said = text === state.said ? `${text}\u00a0` : text;
}

// What was not done, for all to see.
function tellFailure(what, error) {
  if (!error?.late) state.failed = error ? `${what}: ${error.message}` : what;
}

// --- items ------------------------------------------------------------------------------------

function received(item) {
  own.add(item);
  say(`${item.title} was uploaded.`);
  draw();
}

async function change(item, body) {
  try {
    await own.change(item.id, body);
    state.failed = "";
    say("Saved.");
  } catch (error) {
    tellFailure("Not saved", error);
  }
  draw(); // and what was not saved is as it was
}

function remove(item) {
  state.opened = null;
  removals.begin(item, session.token);
  say(`${item.title} is deleted. Ctrl+Z brings it back.`);
  draw();
}

function undo(item) {
  removals.undo(item.id);
  if (own.all.has(item.id)) say(`${item.title} is back.`);
  else tellFailure(`${item.title} cannot be brought back: it was deleted elsewhere.`);
  draw();
}

// As everywhere, but in a field: there it is what was typed that is undone.
function undoByKey(event) {
  const { last } = removals;
  const wanted = event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey;
  if (!wanted || !last || event.target.matches("input")) return;
  event.preventDefault();
  undo(last);
}

// --- logins -----------------------------------------------------------------------------------

async function leave() {
  const { token } = session;
  uploads.clear();
  const removed = removals.finishAll();
  session.end();
  await removed; // with the token that now ends
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

// --- showing ----------------------------------------------------------------------------------

function picture(item) {
  const address = pictures.address(item, session.token);
  return address
    ? html`<img src=${address} alt="" loading="lazy" @error=${() => pictures.failed(item)}>`
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
      <a class="picture" href=${item.url} aria-label=${item.title}>${picture(item)}</a>
      <h3>${item.title}</h3>
      <p class="quiet-text">${bytes(item.size)}</p>
    </li>`;
}

const liveWords = {
  connecting: "Connecting …",
  live: "Live: changes show as they happen.",
  away: "Live updates are away: looked for every few seconds.",
};

function mine() {
  const items = [...own.all.values()].filter((item) => !removals.has(item.id));
  return html`
    ${box.view()}
    <p class="quiet-text" role="status" data-live=${changes.state}>${liveWords[changes.state]}</p>
    <h2 class="unseen">Your items</h2>
    ${listed(own, items, ownItem, "Nothing here yet.")}
    ${own.more ? html`<p><button class="quiet" @click=${() => own.showMore()}>Show more</button></p>` : nothing}`;
}

function galleryView() {
  const { items, next } = gallery;
  return html`
    <h2>What all have made public</h2>
    ${listed(gallery, items, publicItem, "Nothing is public yet.")}
    ${next ? html`<p><button class="quiet" @click=${() => gallery.list({ more: true })}>Show more</button></p>` : nothing}`;
}

function listed({ loaded, problem }, items, card, none) {
  const shown = items.length
    ? html`<ul class="cards items">${repeat(items, (item) => item.id, card)}</ul>`
    : html`<p>${none}</p>`;
  return html`
    ${alarm(problem, items.length ? "What is shown was there before." : "")}
    ${loaded ? shown : problem ? nothing : html`<p>Looking …</p>`}`;
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
    change(item, { title: event.target.elements.title.value });
  };
  const save = async () => {
    state.failed = "";
    say("Downloading …");
    draw();
    await download(item, session.token).catch((error) => tellFailure("It cannot be downloaded", error));
    state.said = "";
    draw();
  };
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
      ${repeat(removals.entries, ([id]) => id, ([, { item, sent }]) => html`
        <p class="toast" data-item=${item.id}>${item.title} is deleted.
          ${sent
            ? nothing
            : html`<button class="quiet" title="Ctrl+Z" aria-keyshortcuts="Control+Z" @click=${() => undo(item)}>Undo</button>`}</p>`)}
    </div>`;
}

let opener = null; // the button whose dialog is open

function draw() {
  if (state.view) keepFocus(place, opener, redraw);
}

// While the dialog is open, all that is not in it can neither be reached nor heard.
function redraw() {
  const item = own.all.get(state.opened);
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
    if (state.view === "keys") keys.hide();
    Object.assign(state, { view: to, form: new Form(draw) });
    if (to === "keys") keys.list();
    if (to === "gallery") gallery.list();
  }
  draw();
}

function entered() {
  state.view = ""; // also where it is the same one, it is somebody else's
  changes.stop();
  if (session.token && session.email !== uploads.owner) uploads.clear();
  if (session.token) uploads.owner = session.email; // who comes back after a login that ended goes on
  pictures.clear();
  removals.finishAll();
  own.clear();
  keys.clear();
  Object.assign(state, { opened: null, failed: "" });
  if (session.token) {
    changes.start(session.token);
    own.look();
    uploads.resume();
  }
  go();
}

changes.addEventListener("look", () => own.look());
changes.addEventListener("change", ({ detail }) => own.told(detail));
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
addEventListener("keydown", undoByKey);
addEventListener("pagehide", () => removals.finishAll());
addEventListener("beforeunload", (event) => {
  if (uploads.pending) event.preventDefault();
});
setInterval(() => {
  if (document.visibilityState !== "visible") return;
  if (state.view === "gallery") gallery.lookAgain();
  if (state.view === "keys" && keys.problem) keys.list();
}, againSlowlyMilliseconds);

entered();