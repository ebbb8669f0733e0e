// What the state of the service comes to, as a title and a text.

import { duration } from "../common/format.js";
import { oldSeconds } from "./replicas.js";

const staleSeconds = 5;
const waitSeconds = 300; // as the alert JobsWait has it
export const listed = 100; // failed jobs

// Whichever replica and worker answers: the worst counts that was heard of lately.
export function verdict({ replicas, problem, jobs }) {
  const youngest = Math.min(...[...replicas.values()].map(({ age }) => age));
  const old = `${problem ? `${problem.message} ` : ""}The last report is ${duration(youngest)} old.`;
  // Who asks too often was told nothing of the service.
  if (problem && problem.status !== 429) return { kind: "bad", title: "No answer", text: old };
  if (youngest > oldSeconds) return { kind: "warn", title: "Unknown", text: old };
  const heard = [...replicas].filter(([, { isOld }]) => !isOld);
  const found = heard.map(named).reduce(worse);
  const { rank, kind, title, text } = found;
  const where = heard.length === 1 ? "" : rank ? `${found.name}: ` : `On ${heard.length} replicas. `;
  const waited = Math.max(...heard.map(([, replica]) => oldestJob(replica)));
  const waits = waited > waitSeconds;
  const more = [
    waits ? ` The oldest job has waited for ${duration(waited)}.` : "",
    jobs?.length ? ` Failed jobs: ${jobs.length}${jobs.length === listed ? " or more" : ""}.` : "",
  ];
  const shown = waits && !rank ? { kind: "warn", title: "Jobs wait" } : { kind, title };
  return { ...shown, text: where + text + more.join("") };
}

// Seconds, of what was sampled lately.
function oldestJob({ samples, samplesAge }) {
  return (samplesAge <= oldSeconds && samples.column("oldest_job_seconds").at(-1)) || 0;
}

function named([name, replica]) {
  const report = worst(replica);
  const judged = judge(report);
  const alone = replica.lately.some((other) => judge(other).rank < judged.rank);
  return { ...judged, name, text: `${alone ? `Process ${report.pid}: ` : ""}${judged.text}` };
}

// The report of a replica that its checks are shown of.
export function worst(replica) {
  return replica.lately.map((report) => ({ report, ...judge(report) })).reduce(worse).report;
}

function worse(a, b) {
  return b.rank >= a.rank ? b : a;
}

function judge({ status, state, checks, workers, uptime }) {
  const those = (...states) =>
    Object.keys(checks).filter((name) => states.includes(checks[name].state)).map(words).join(", ");
  const failing = those("fail", "unknown");
  if (state === "draining") {
    return { rank: 3, kind: "bad", title: "Draining", text: "This process was told to stop and finishes what it has." };
  }
  if (status === "unhealthy") {
    return { rank: 4, kind: "bad", title: "Not ready", text: failing ? `Failing: ${failing}.` : `It is ${state}.` };
  }
  if (status === "degraded") {
    const text = failing ? `It serves, without: ${failing}.` : `It serves; slow: ${those("slow")}.`;
    return { rank: 2, kind: "warn", title: "Degraded", text };
  }
  const stuck = workers.filter(isStale).map(({ pid }) => pid);
  if (stuck.length) {
    return { rank: 1, kind: "warn", title: "A worker hangs", text: `No heartbeat of process ${stuck.join(", ")}.` };
  }
  return { rank: 0, kind: "good", title: "All is well", text: `Every check passes; up for ${duration(uptime)}.` };
}

export function isStale(worker) {
  return worker.heartbeat_age_seconds > staleSeconds;
}

export function words(name) {
  return name.replaceAll("_", " ");
}
