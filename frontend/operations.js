// The state of the service, for who has the operators' token. It is kept in memory alone: a reload
// asks for it again.

import { html, nothing, render, svg } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";
import { Backoff, pause } from "./common/backoff.js";
import { bytes, duration, number, percent } from "./common/format.js";
import { request } from "./common/request.js";
import { Plot, sparkline } from "./operations/charts.js";
import { Samples } from "./operations/series.js";

const lookMilliseconds = 2000;
const jobsEvery = 3; // looks
const drawMilliseconds = 5000; // also where no answer comes
const oldSeconds = 15; // a report that is older may no longer be true
const silentSeconds = 60; // a replica that nobody heard of for so long answers no more
const listed = 100;

const place = document.getElementById("operations");
const state = {
  token: "",
  asking: false,
  watch: null, // by which the loop that asks knows that it is still wanted
  refusal: "",
  shown: "", // a replica's name
  problem: "",
  jobs: null,
  jobsProblem: "",
  busy: new Set(),
  said: "",
};
// By name, as a load balancer takes turns: what each reported and when, by performance.now() as clocks
// may be off, and its samples.
const replicas = new Map();
const plots = [];

const figures = [
  {
    title: "Requests a second",
    lines: [
      { label: "answered", colour: "good", format: (v) => number(v) },
      { label: "client's mistakes", colour: "warn", format: (v) => number(v) },
      { label: "failed", colour: "bad", format: (v) => number(v) },
    ],
    columns: (s) => [
      sum(s.rate("requests_2xx"), s.rate("requests_3xx"), s.rate("requests_1xx")),
      s.rate("requests_4xx"),
      s.rate("requests_5xx"),
    ],
    least: 1,
  },
  {
    title: "Failed requests, share",
    lines: [{ label: "failed", colour: "bad", format: percent }],
    columns: (s) => {
      const failed = s.rate("requests_5xx");
      const all = sum(failed, ...[1, 2, 3, 4].map((n) => s.rate(`requests_${n}xx`)));
      return [failed.map((value, i) => (all[i] ? (100 * value) / all[i] : value && 0))];
    },
    least: 1,
  },
  {
    title: "Time to answer",
    lines: [
      { label: "half within", colour: "good", format: duration },
      { label: "95 % within", colour: "accent", format: duration },
      { label: "99 % within", colour: "warn", format: duration },
    ],
    columns: (s) => [0.5, 0.95, 0.99].map((share) => s.percentile(share)),
    least: 0.01,
  },
  {
    title: "Database connections",
    lines: [
      { label: "in use", colour: "accent", format: (v) => number(v, 0) },
      { label: "of", colour: "quiet", format: (v) => number(v, 0), dash: [4, 4] },
    ],
    columns: (s) => [s.column("pool_in_use"), s.column("pool_size")],
    least: 1,
  },
  {
    title: "Jobs",
    lines: [
      { label: "waiting", colour: "accent", format: (v) => number(v, 0) },
      { label: "running", colour: "good", format: (v) => number(v, 0) },
      { label: "failed", colour: "bad", format: (v) => number(v, 0) },
    ],
    columns: (s) => ["todo", "doing", "failed"].map((status) => s.column(`jobs_${status}`)),
    least: 4,
  },
  {
    title: "Oldest waiting job",
    lines: [{ label: "for", colour: "warn", format: duration }],
    columns: (s) => [s.column("oldest_job_seconds")],
    least: 1,
  },
  {
    title: "CPU and memory, of what may be used",
    lines: [
      { label: "CPU", colour: "accent", format: percent },
      { label: "memory", colour: "good", format: percent },
    ],
    columns: (s) => [s.column("cpu_percent"), s.column("memory_percent")],
    least: 10,
  },
  {
    title: "Event loop, longest lag",
    lines: [{ label: "late by", colour: "warn", format: duration }],
    columns: (s) => [s.column("loop_lag_seconds")],
    least: 0.01,
  },
];

function sum(...columns) {
  return columns[0].map((_, i) => {
    const known = columns.map((column) => column[i]).filter((value) => value != null);
    return known.length ? known.reduce((a, b) => a + b, 0) : null;
  });
}

// --- asking -----------------------------------------------------------------------------------

async function open(event) {
  event.preventDefault();
  const field = event.target.elements.token;
  const token = field.value.trim();
  state.asking = true;
  state.refusal = "";
  draw();
  try {
    replicas.clear();
    await look(token);
    state.token = token;
  } catch (error) {
    state.refusal =
      error.status === 401
        ? "That is not the token."
        : error.status === 404
          ? "This service has no HEALTH_TOKEN, so there is nothing to see here."
          : error.message;
  }
  state.asking = false;
  draw();
  if (state.token) watch();
  else place.querySelector("input")?.focus();
}

async function look(token) {
  const { data } = await request("GET", "/api/operations/health", { token }).catch((error) => {
    // 503 is also how an unhealthy service reports.
    if (error.status === 503 && error.data?.checks) return error;
    throw error;
  });
  const seen = replicas.get(data.replica) || { samples: new Samples() };
  replicas.set(data.replica, Object.assign(seen, { report: data, reportedAt: performance.now() }));
  for (const [name, replica] of replicas) {
    if (age(replica) > silentSeconds) replicas.delete(name);
  }
  if (!replicas.has(state.shown)) state.shown = data.replica;
}

async function lookBack(token) {
  // Whoever answers: nobody knows beforehand. So all is asked for until every replica has some.
  const since = Math.min(...[...replicas.values()].map(({ samples }) => samples.newest));
  const { data } = await request("GET", `/api/operations/history?since=${since}`, { token });
  const replica = replicas.get(data.replica);
  if (!replica) return;
  if (data.now < replica.samples.newest) replica.samples = new Samples(); // its clock was set back
  else if (replica.samples.length || !since) replica.samples.add(data.columns, data.now);
  state.now = data.now;
}

function age(replica) {
  return (performance.now() - replica.reportedAt) / 1000;
}

async function lookAtJobs(token) {
  try {
    const path = `/api/operations/jobs?status=failed&limit=${listed}`;
    state.jobs = (await request("GET", path, { token })).data.items;
    state.jobsProblem = "";
  } catch (error) {
    state.jobsProblem = error.message;
  }
}

async function watch() {
  const { token } = state;
  const own = (state.watch = {}); // the token may be forgotten, and typed again
  const backoff = new Backoff(lookMilliseconds);
  for (let turn = 0; state.watch === own; turn += 1) {
    try {
      await look(token);
      await lookBack(token);
      if (turn % jobsEvery === 0) await lookAtJobs(token);
      state.problem = "";
      backoff.reset();
    } catch (error) {
      if (state.watch !== own) return;
      if (error.status === 401 || error.status === 404) return close("The token is no longer good.");
      state.problem = error.message;
    }
    draw();
    await pause(state.problem ? backoff.next() : lookMilliseconds);
  }
}

function close(reason = "") {
  Object.assign(state, { token: "", watch: null, shown: "", jobs: null, problem: "", refusal: reason });
  draw();
}

async function change(job, method, path, done) {
  state.busy.add(job.id);
  draw();
  try {
    await request(method, `/api/operations/jobs/${job.id}${path}`, { token: state.token });
    state.said = `Job ${job.id} ${done}.`;
  } catch (error) {
    state.said = `Job ${job.id}: ${error.message}`;
  }
  await lookAtJobs(state.token);
  state.busy.delete(job.id);
  draw();
}

function discard(job) {
  if (confirm(`Discard job ${job.id} (${job.task})? What it was to do is never done.`)) {
    change(job, "DELETE", "", "is discarded");
  }
}

// --- showing ----------------------------------------------------------------------------------

// Of the service: what the worst replica says that was heard of lately.
function verdict() {
  const youngest = Math.min(...[...replicas.values()].map(age));
  const old = `The last report is ${duration(youngest)} old.`;
  if (state.problem) return { kind: "bad", title: "No answer", text: `${state.problem} ${old}` };
  if (youngest > oldSeconds) return { kind: "warn", title: "Unknown", text: old };
  const heard = [...replicas].filter(([, replica]) => age(replica) <= oldSeconds);
  const verdicts = heard.map(([name, { report }]) => ({ name, ...verdictOf(report) }));
  const worst = verdicts.reduce((a, b) => (b.rank > a.rank ? b : a));
  if (heard.length === 1) return worst;
  return { ...worst, text: worst.rank ? `${worst.name}: ${worst.text}` : `On ${heard.length} replicas. ${worst.text}` };
}

function verdictOf(report) {
  const failing = Object.entries(report.checks).filter(([, check]) => check.state === "fail" || check.state === "unknown");
  const names = failing.map(([name]) => words(name)).join(", ");
  if (report.state === "draining") {
    return { rank: 2, kind: "bad", title: "Draining", text: "This process was told to stop and finishes what it has." };
  }
  if (report.status === "unhealthy") {
    return { rank: 3, kind: "bad", title: "Not ready", text: names ? `Failing: ${names}.` : `It is ${report.state}.` };
  }
  if (report.status === "degraded") {
    const slow = Object.keys(report.checks).filter((name) => report.checks[name].state === "slow");
    const text = names ? `It serves, without: ${names}.` : `It serves; slow: ${slow.map(words).join(", ")}.`;
    return { rank: 1, kind: "warn", title: "Degraded", text };
  }
  return { rank: 0, kind: "good", title: "All is well", text: `Every check passes; up for ${duration(report.uptime)}.` };
}

function words(name) {
  return name.replaceAll("_", " ");
}

function entrance() {
  return html`
    <form class="card entrance" @submit=${open}>
      <h2>For operators</h2>
      <p>What is behind this needs the service's <code>HEALTH_TOKEN</code>. It stays in this tab's memory.</p>
      <label for="token">Token</label>
      <input id="token" name="token" type="password" autocomplete="off" required
        aria-describedby="refusal" aria-invalid=${state.refusal ? "true" : "false"}>
      <p id="refusal" class="mistake" role="alert">${state.refusal}</p>
      <button ?disabled=${state.asking}>Show</button>
    </form>`;
}

function checkCard([name, check], { report, samples }) {
  const since = check.last_change ? duration(report.timestamp - check.last_change) : "–";
  const kind = check.state === "pass" ? "good" : check.state === "fail" && check.required ? "bad" : "warn";
  const path = sparkline(samples.column(`latency_${name}`));
  return html`
    <li class="card check" data-kind=${kind}>
      <h3>${words(name)} ${check.required ? html`<small>required</small>` : nothing}</h3>
      <p class="state">${check.state}</p>
      <dl>
        <div><dt>Latency</dt><dd>${duration(check.latency_seconds)}</dd></div>
        <div><dt>Looked at</dt><dd>${check.age_seconds == null ? "–" : html`${duration(check.age_seconds)} ago`}</dd></div>
        <div><dt>So for</dt><dd>${since}</dd></div>
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
          <tr data-kind=${worker.heartbeat_age_seconds > 5 ? "bad" : "good"}>
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
  if (state.jobsProblem) return html`<p class="mistake">${state.jobsProblem}</p>`;
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
              <button ?disabled=${state.busy.has(job.id)}
                @click=${() => change(job, "POST", "/retry", "will run again")}>Retry<span class="unseen"> job ${job.id}</span></button>
              <button class="quiet" ?disabled=${state.busy.has(job.id)}
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
  return html`
    <p class="choice">
      <label for="replica">Replica</label>
      <select id="replica" @change=${choose}>${repeat([...replicas.keys()].sort(), (name) => name, (name) => html`
        <option value=${name} ?selected=${name === state.shown}>${name}</option>`)}</select>
      Checks, plots and workers are those of one; ${replicas.size} answer in turn.
    </p>`;
}

function overview() {
  const shown = replicas.get(state.shown);
  const { report } = shown;
  const { kind, title, text } = verdict();
  document.title = `${title} - Operations`;
  return html`
    <section class="verdict" data-kind=${kind} aria-live="polite" aria-atomic="true">
      <h2>${title}</h2>
      <p>${text}</p>
    </section>
    ${replicas.size > 1 ? choice() : nothing}
    <section aria-labelledby="checks">
      <h2 id="checks">Checks</h2>
      <ul class="cards">${Object.entries(report.checks).map((entry) => checkCard(entry, shown))}</ul>
    </section>
    <section aria-labelledby="load">
      <h2 id="load">The last quarter of an hour</h2>
      <div class="figures">${figures.map((figure) => html`
        <figure class="card">
          <figcaption>${figure.title}</figcaption>
          <p class="latest"></p>
          <div class="plot" aria-hidden="true"></div>
        </figure>`)}</div>
    </section>
    <section aria-labelledby="workers">
      <h2 id="workers">Workers</h2>
      ${workersTable(report.workers)}
      ${machine(report)}
    </section>
    <section aria-labelledby="jobs">
      <h2 id="jobs">Failed jobs</h2>
      ${jobsTable()}
      <p role="status">${state.said}</p>
    </section>
    <p><button class="quiet" @click=${() => close()}>Forget the token</button></p>`;
}

function draw() {
  const open = Boolean(state.token && replicas.size);
  if (!open) plots.splice(0).forEach((plot) => plot.close());
  render(open ? overview() : entrance(), place);
  if (!open) return;
  if (!plots.length) {
    place.querySelectorAll("figure").forEach((element, i) => {
      plots.push(new Plot(element, figures[i].lines, { least: figures[i].least }));
    });
  }
  const { report, samples } = replicas.get(state.shown);
  plots.forEach((plot, i) => plot.show(state.now || report.timestamp, samples.column("at"), figures[i].columns(samples)));
}

setInterval(() => state.token && draw(), drawMilliseconds);
draw();
