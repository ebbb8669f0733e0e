// Requests of the API, and its problems (RFC 9457) as errors.

export class Problem extends Error {
  constructor(status, detail, { data = null, retryAfter = null } = {}) {
    super(detail);
    this.status = status;
    this.data = data;
    this.waitMilliseconds = waitOf(retryAfter); // at least, before another try
  }

  // Nothing was wrong with the request: another try may succeed.
  get temporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export const unreachable = () => new Problem(0, "The service cannot be reached.");
export const unreadable = () => new Problem(0, "The service's answer cannot be read.");

const patienceMilliseconds = 20_000; // an answer that takes longer is none
const longestWaitMilliseconds = 60_000;

// Of a Retry-After in seconds; a date would be of a clock that this machine's may differ from.
function waitOf(retryAfter) {
  return Math.min(longestWaitMilliseconds, Math.max(0, 1000 * retryAfter || 0));
}

let offset = 0; // of the service's clock to this machine's, which may be off

export function serverTime() {
  return Date.now() + offset;
}

// What was answered, from JSON; null where there is nothing to say. Raises a Problem.
export async function request(method, path, options = {}) {
  const { token, json, form, headers = {}, ...more } = options;
  const sent = new Headers(headers);
  if (token) sent.set("Authorization", `Bearer ${token}`);
  let body = form;
  if (json !== undefined) {
    sent.set("Content-Type", "application/json");
    body = JSON.stringify(json);
  }
  let response;
  try {
    const signal = AbortSignal.timeout(patienceMilliseconds);
    response = await fetch(path, { method, headers: sent, body, signal, ...more });
  } catch {
    throw unreachable();
  }
  const date = Date.parse(response.headers.get("Date") || "");
  if (date && !response.headers.get("Age")) offset = date - Date.now();
  const data = await content(response);
  const { status, ok } = response;
  if (!ok) {
    const retryAfter = response.headers.get("Retry-After");
    throw new Problem(status, data?.detail || response.statusText || `The answer was ${status}.`, { data, retryAfter });
  }
  if (!data && status !== 204) throw unreadable();
  return data;
}

async function content(response) {
  if (!/json/.test(response.headers.get("Content-Type") || "")) return null;
  try {
    return await response.json();
  } catch {
    return null; // cut off on its way, or a proxy's
  }
}
