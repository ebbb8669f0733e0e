// The state of the service, for who has the operators' token. It is kept in memory alone: a reload
// asks for it again.

import { html, nothing, render, svg } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { repeat } from "lit-html/directives/repeat.js";
import { Backoff, pause } from "./common/backoff.js";
import { bytes, duration, number, percent } from "./common/format.js";
import { request } from "./common/request.js";
import { Plot, sparkline } from "./operations/charts.js";
import { figures } from "./operations/figures.js";
import { hear, oldSeconds } from "./operations/replicas.js";
import { Samples } from "./operations/series.js";
import { isStale, listed, verdict, words, worst } from "./operations/verdict.js";

const lookMilliseconds = 2000;
const jobsEvery = 3; // looks
const drawMilliseconds = 5000; // also where no answer comes

const place = document.getElementById("operations");
const pageTitle = document.title;
const plots = [];
let state = fresh();

// What is known under one token. Who waits for an answer keeps the state it asked with: what comes
// after the token was forgotten is lost with it.
function fresh(refusal = "") {
  return {
    token: "",
    asking: false,
    refusal,
    replicas: new Map(), // by name
    shown: "", // a replica's name
    dueAt: Infinity, // of the next look, by performance.now()
    problem: null,
    historyProblem: "",
    jobs: null,
    jobsAskedAt: 0,
    jobsProblem: "",
    busy: new Set(),
    said: "",
  };
}

// --- asking -----------------------------------------------------------------------------------

async function open(event) {
  event.preventDefault();
  const own = state;
  if (own.asking) return;
  const token = event.target.elements.token.value.trim();
  Object.assign(own, { asking: true, refusal: "" });
  draw();
  try {
    await look(own, token);
    own.token = token;
  } catch (error) {
    own.refusal =
      error.status === 401
        ? "That is not the token."
        : error.status === 404
          ? "This service has no HEALTH_TOKEN, so there is nothing to see here."
          : error.message;
  }
  own.asking = false;
  draw();
  place.querySelector(own.token ? ".verdict h2" : "input").focus();
  if (own.token) watch(own);
}

async function look(own, token) {
  const report = await request("GET", "/api/operations/health", { token }).catch((error) => {
    // 503 is also how an unhealthy service reports.
    if (error.status === 503 && error.data?.checks) return error.data;
    throw error;
  });
  hear(own.replicas, report);
  if (!own.replicas.has(own.shown)) own.shown = report.replica;
}

async function lookBack({ replicas, token }) {
  // Whoever answers: nobody knows beforehand. So all is asked for until every replica has some.
  const since = Math.min(...[...replicas.values()].map(({ samples }) => samples.newest));
  const { replica: name, now, columns } = await request("GET", `/api/operations/history?since=${since}`, { token });
  const replica = replicas.get(name);
  if (!replica) return;
  if (now < replica.samples.newest) replica.samples = new Samples(); // its clock was set back
  else if (replica.samples.length || !since) replica.samples.add(columns, now);
}

async function lookAtJobs(own) {
  const asked = performance.now();
  try {
    const path = `/api/operations/jobs?status=failed&limit=${listed}`;
    const { items } = await request("GET", path, { token: own.token });
    // One that was asked for before, and comes only now, has jobs that are discarded.
    if (asked > own.jobsAskedAt) Object.assign(own, { jobs: items, jobsAskedAt: asked });
    own.jobsProblem = "";
  } catch (error) {
    own.jobsProblem = error.message;
  }
}

async function watch(own) {
  const backoff = new Backoff(lookMilliseconds);
  own.dueAt = performance.now();
  for (let turn = 0; state === own; turn += 1) {
    try {
      await look(own, own.token);
      own.problem = null;
      backoff.reset();
      own.historyProblem = await lookBack(own).then(() => "", (error) => error.message);
      if (turn % jobsEvery === 0) await lookAtJobs(own);
    } catch (error) {
      if (state !== own) return;
      if (error.status === 401 || error.status === 404) return close("The token is no longer good.");
      own.problem = error;
    }
    const wait = own.problem ? backoff.next() : lookMilliseconds;
    own.dueAt = performance.now() + wait;
    draw();
    await pause(wait);
  }
}

function close(refusal) {
  state = fresh(refusal);
  draw();
  place.querySelector("input").focus();
}

async function change(job, { name, method, path, done }) {
  const own = state;
  if (own.busy.has(job.id)) return;
  const row = own.jobs.findIndex(({ id }) => id === job.id);
  own.busy.add(job.id);
  draw();
  try {
    await request(method, `/api/operations/jobs/${job.id}${path}`, { token: own.token });
    own.said = `Job ${job.id} ${done}.`;
  } catch (error) {
    own.said = `Job ${job.id}: ${error.message}`;
  }
  await lookAtJobs(own);
  own.busy.delete(job.id);
  draw();
  if (document.activeElement !== document.body) return;
  // Its button had the focus, and is gone: the next one has it now.
  const buttons = place.querySelectorAll(`button[name="${name}"]`);
  (buttons[Math.min(row, buttons.length - 1)] || place.querySelector("#jobs"))?.focus();
}

function retry(job) {
  change(job, { name: "retry", method: "POST", path: "/retry", done: "will run again" });
}

function discard(job) {
  if (!state.busy.has(job.id) && confirm(`Discard job ${job.id} (${job.task})? What it was to do is never done.`)) {
    change(job, { name: "discard", method: "DELETE", path: "", done: "is discarded" });
  }
}

// --- showing ----------------------------------------------------------------------------------

function entrance() {
  return html`
    <form class="card entrance" @submit=${open}>
      <h2>For operators</h2>
      <p>What is behind this needs the service's <code>HEALTH_TOKEN</code>. It stays in this tab's memory.</p>
      <label for="token">Token</label>
      <input id="token" name="token" type="password" autocomplete="off" required
        aria-describedby="refusal" aria-invalid=${state.refusal ? "true" : "false"}>
      <p id="refusal" class="mistake" role="alert">${state.refusal}</p>
      <button aria-disabled=${state.asking}>Show</button>
    </form>`;
}

function checkCard([name, check], report, samples) {
  const changed = check.last_change && new Date(1000 * check.last_change);
  const kind = check.state === "pass" ? "good" : check.state === "fail" && check.required ? "bad" : "warn";
  const path = sparkline(samples.column(`latency_${name}`));
  return html`
    <li class="card check" data-kind=${kind}>
      <h3>${words(name)} ${check.required ? html`<small>required</small>` : nothing}</h3>
      <p class="state">${check.state}</p>
      <dl>
        <div><dt>Latency</dt><dd>${duration(check.latency_seconds)}</dd></div>
        <div><dt>Looked at</dt><dd>${check.age_seconds == null ? "–" : html`${duration(check.age_seconds)} ago`}</dd></div>
        ${changed
          ? html`<div><dt>So for</dt><dd>${duration(report.timestamp - check.last_change)}</dd></div>
              <div><dt>Since</dt><dd><time datetime=${changed.toISOString()}>${changed.toLocaleString([], { dateStyle: "short", timeStyle: "medium" })}</time></dd></div>`
          : nothing}
        ${check.failures_in_a_row
          ? html`<div><dt>Failures in a row</dt><dd>${check.failures_in_a_row}</dd></div>`
          : nothing}
      </dl>
      <svg viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">${svg`<path d=${path}></path>`}</svg>
    </li>`;
}

function workersTable(workers) {
  return html`
    <div class="scrolled" tabindex="0" role="region" aria-label="Table of workers">
      <table>
        <thead><tr><th scope="col">Process</th><th scope="col">Heartbeat</th><th scope="col">Loop lag</th>
          <th scope="col">Requests</th><th scope="col">Memory</th></tr></thead>
        <tbody>${repeat(workers, (worker) => worker.pid, (worker) => html`
          <tr data-kind=${isStale(worker) ? "bad" : "good"}>
            <th scope="row">${worker.pid}</th>
            <td>${duration(worker.heartbeat_age_seconds)} ago</td>
            <td>${duration(worker.event_loop_lag_seconds)}</td>
            <td>${number(worker.requests, 0)}</td>
            <td>${worker.memory_bytes == null ? "–" : bytes(worker.memory_bytes)}</td>
          </tr>`)}</tbody>
      </table>
    </div>`;
}

function jobsTable() {
  if (!state.jobs?.length && state.jobsProblem) return nothing; // nobody knows of any, or of none
  if (!state.jobs) return html`<p>Looking …</p>`;
  if (!state.jobs.length) return html`<p>None. What a job could not do is listed here with its reason.</p>`;
  return html`
    <div class="scrolled" tabindex="0" role="region" aria-label="Table of failed jobs">
      <table>
        <thead><tr><th scope="col">Job</th><th scope="col">Task</th><th scope="col">Failed</th>
          <th scope="col">Attempts</th><th scope="col">Reason</th><th scope="col"><span class="unseen">Actions</span></th></tr></thead>
        <tbody>${repeat(state.jobs, (job) => job.id, (job) => html`
          <tr>
            <th scope="row">${job.id}</th>
            <td>${job.task}<br><code>${JSON.stringify(job.arguments)}</code></td>
            <td>${job.at ? new Date(job.at).toLocaleString() : "–"}</td>
            <td>${job.attempts}</td>
            <td>${job.reason}</td>
            <td class="actions">
              <button name="retry" aria-disabled=${state.busy.has(job.id)}
                @click=${() => retry(job)}>Retry<span class="unseen"> job ${job.id}</span></button>
              <button name="discard" class="quiet" aria-disabled=${state.busy.has(job.id)}
                @click=${() => discard(job)}>Discard<span class="unseen"> job ${job.id}</span></button>
            </td>
          </tr>`)}</tbody>
      </table>
    </div>
    ${state.jobs.length === listed ? html`<p>The newest ${listed}; there may be more.</p>` : nothing}`;
}

function machine(report) {
  const rows = [
    ["CPU", report.cpu_percent == null ? "–" : `${percent(report.cpu_percent)} of ${number(report.cpus)}`],
    ["Memory", report.memory ? `${percent(report.memory.percent)} of ${bytes(report.memory.total)}` : "–"],
    ["Disk", report.disk ? `${percent(report.disk.percent)} of ${bytes(report.disk.total)}` : "–"],
    ["Inodes", report.inodes ? percent(report.inodes.percent) : "–"],
    ["Version", report.version],
    ["Replica", report.replica],
  ];
  if (report.sample_age_seconds > oldSeconds) rows.unshift(["As of", `${duration(report.sample_age_seconds)} ago`]);
  return html`<dl class="facts">${rows.map(
    ([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`,
  )}</dl>`;
}

function choice() {
  const choose = (event) => {
    state.shown = event.target.value;
    draw();
  };
  const heard = [...state.replicas.values()].filter(({ isOld }) => !isOld).length;
  return html`
    <p class="choice">
      <label for="replica">Replica</label>
      <select id="replica" @change=${choose}>${repeat([...state.replicas.keys()].sort(), (name) => name, (name) => html`
        <option value=${name} .selected=${live(name === state.shown)}>${name}</option>`)}</select>
      Checks, plots and workers are those of one; ${heard === 1 ? "one answers" : `${heard} answer in turn`}.
    </p>`;
}

// What is old is grey, and says so.
function section(id, title, seconds, content) {
  const old = seconds > oldSeconds;
  return html`
    <section aria-labelledby=${id} data-old=${old}>
      <h2 id=${id} tabindex="-1">${title}${old ? html` <small>as of ${duration(seconds)} ago</small>` : nothing}</h2>
      ${content}
    </section>`;
}

function overview({ kind, title, text }) {
  const shown = state.replicas.get(state.shown);
  const { newest, samples } = shown;
  const report = worst(shown);
  const checks = Object.entries(report.checks);
  return html`
    <section class="verdict" data-kind=${kind}>
      <div aria-live="polite"><h2 tabindex="-1">${title}</h2></div>
      <p>${text}</p>
    </section>
    ${state.replicas.size > 1 ? choice() : nothing}
    ${section("checks", "Checks", shown.age, html`
      <ul class="cards">${checks.map((entry) => checkCard(entry, report, samples))}</ul>`)}
    ${section("load", "The last quarter of an hour", shown.samplesAge, html`
      <p class="mistake" role="status">${state.historyProblem}</p>
      <div class="figures">${figures.map((figure) => html`
        <figure class="card">
          <figcaption>${figure.title}</figcaption>
          <p class="latest"></p>
          <div class="plot" aria-hidden="true"></div>
        </figure>`)}</div>`)}
    ${section("workers", "Workers", shown.age, html`
      ${workersTable(newest.workers)}
      ${machine(newest)}`)}
    ${section("jobs", "Failed jobs", state.jobs ? (performance.now() - state.jobsAskedAt) / 1000 : 0, html`
      <p class="mistake" role="status">${state.jobsProblem}</p>
      ${jobsTable()}
      <p role="status">${state.said}</p>`)}
    <p><button class="quiet" @click=${() => close()}>Forget the token</button></p>`;
}

function draw() {
  const open = Boolean(state.token);
  if (!open) plots.splice(0).forEach((plot) => plot.close());
  const said = open && verdict(state);
  // The timers of a hidden tab run once a minute: what is old then will be asked for at once.
  if (!document.hidden || performance.now() < state.dueAt) {
    document.title = open ? `${said.title} - Operations` : pageTitle;
  }
  render(open ? overview(said) : entrance(), place);
  if (!open) return;
  if (!plots.length) {
    place.querySelectorAll("figure").forEach((element, i) => {
      plots.push(new Plot(element, figures[i].lines, { least: figures[i].least }));
    });
  }
  const { now, samples } = state.replicas.get(state.shown);
  plots.forEach((plot, i) => plot.show(now, samples.column("at"), figures[i].columns(samples)));
}

setInterval(() => state.token && draw(), drawMilliseconds);
draw();
