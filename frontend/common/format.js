// Figures as people read them.

const bytesUnits = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(number) {
  let unit = 0;
  let left = number;
  while (left >= 1024 && unit < bytesUnits.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${left.toFixed(left < 10 && unit > 0 ? 1 : 0)} ${bytesUnits[unit]}`;
}

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 0.00005) return "0 ms";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} days`;
}

export function number(value, digits = 1) {
  if (value == null) return "–";
  return value.toLocaleString(undefined, { maximumFractionDigits: digits });
}

export function percent(value) {
  return value == null ? "–" : `${number(value, value < 10 ? 1 : 0)} %`;
}

// For who has to know to the byte.
export function exactly(count) {
  return `${bytes(count)} (${number(count, 0)} bytes)`;
}

// A date of the service's, or nothing.
export function moment(text) {
  return text ? new Date(text).toLocaleString() : "";
}
