// What is known of the replicas: a load balancer takes turns between them, each with its workers.
// How long ago that was is told by performance.now(), as clocks may be off.

import { Samples } from "./series.js";

export const oldSeconds = 15; // a report that is older may no longer be true
const silentSeconds = 60; // a worker that nobody heard of for so long answers no more

function seconds() {
  return performance.now() / 1000;
}

export class Replica {
  constructor() {
    this.samples = new Samples();
    this.reports = new Map(); // by process; the newest is the last
  }

  hear(report) {
    this.reports.delete(report.pid);
    this.reports.set(report.pid, { ...report, heardAt: seconds() });
    this.ahead = report.timestamp - seconds();
  }

  forgetSilent() {
    for (const [pid, { heardAt }] of this.reports) {
      if (seconds() - heardAt > silentSeconds) this.reports.delete(pid);
    }
  }

  get newest() {
    return [...this.reports.values()].at(-1);
  }

  get age() {
    return seconds() - this.newest.heardAt;
  }

  // By its own clock.
  get now() {
    return seconds() + this.ahead;
  }

  get isOld() {
    return this.age > oldSeconds;
  }

  get samplesAge() {
    return this.samples.length ? this.now - this.samples.newest : 0;
  }

  // What its workers said that is still to be believed, or else the last that one said.
  get lately() {
    const all = [...this.reports.values()];
    const young = all.filter(({ heardAt }) => seconds() - heardAt <= oldSeconds);
    return young.length ? young : all.slice(-1);
  }
}

// Takes a report in, and lets go of who is silent.
export function hear(replicas, report) {
  const name = report.replica;
  if (!replicas.has(name)) replicas.set(name, new Replica());
  replicas.get(name).hear(report);
  for (const [other, replica] of replicas) {
    replica.forgetSilent();
    if (!replica.reports.size) replicas.delete(other);
  }
}
