// What is plotted: of each figure its lines, and their values from samples.

import { duration, number, percent } from "../common/format.js";

export const figures = [
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
    title: "CPU, memory and disk, of what may be used",
    lines: [
      { label: "CPU", colour: "accent", format: percent },
      { label: "memory", colour: "good", format: percent },
      { label: "disk", colour: "warn", format: percent },
    ],
    columns: (s) => ["cpu", "memory", "disk"].map((name) => s.column(`${name}_percent`)),
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
