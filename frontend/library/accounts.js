// Forms for who is not logged in.

import { html } from "lit-html";
import { request } from "../common/request.js";

async function logIn(session, { email, password }) {
  const form = new URLSearchParams({ username: email, password });
  const login = await request("POST", "/login", { form }).catch((error) => {
    if (error.status === 401) error.message = "Address and password do not fit, or the account is not confirmed.";
    throw error;
  });
  session.begin(login.access_token, email);
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

function emailField() {
  return html`
    <label for="email">Mail address</label>
    <input id="email" name="email" type="email" autocomplete="username" required aria-describedby="mistake">`;
}

export function loginView(form, session) {
  return html`
    <form class="card entrance" @submit=${(event) => form.submit(event, (fields) => logIn(session, fields))}>
      <h2>Log in</h2>
      ${emailField()}
      <label for="password">Password</label>
      <input id="password" name="password" type="password" autocomplete="current-password" required aria-describedby="mistake">
      ${form.answer()}
      <button aria-disabled=${form.busy}>Log in</button>
      <p><a href="#join">Make an account</a> · <a href="#forgot">Forgot the password?</a></p>
    </form>`;
}

export function joinView(form) {
  return html`
    <form class="card entrance" @submit=${(event) => form.submit(event, join)}>
      <h2>Make an account</h2>
      ${emailField()}
      <label for="password">Password</label>
      <input id="password" name="password" type="password" autocomplete="new-password" minlength="8" maxlength="1024"
        required aria-describedby="hint mistake">
      <p id="hint" class="quiet-text">Eight characters or more.</p>
      ${form.answer()}
      <button aria-disabled=${form.busy}>Make it</button>
      <p><a href="#login">I have one</a></p>
    </form>`;
}

export function forgotView(form) {
  return html`
    <form class="card entrance" @submit=${(event) => form.submit(event, forget)}>
      <h2>A new password</h2>
      ${emailField()}
      ${form.answer()}
      <button aria-disabled=${form.busy}>Mail me a link</button>
      <p><a href="#login">Back</a></p>
    </form>`;
}
