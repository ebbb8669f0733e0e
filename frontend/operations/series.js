// From what the service counted to what people look at: rates, shares, percentiles.

export const windowSeconds = 900;
const percentileSamples = 6; // over half a minute: fewer requests have no percentiles

// Samples of one replica, a column a figure. Newer ones are added behind, old ones fall off.
export class Samples {
  constructor() {
    this.columns = { at: [] };
  }

  get length() {
    return this.columns.at.length;
  }

  get newest() {
    return this.length ? this.columns.at[this.length - 1] : 0;
  }

  // What is here already may come again.
  add(given, now) {
    const at = given.at || [];
    const first = at.findIndex((moment) => moment > this.newest);
    const known = first < 0 ? at.length : first;
    const before = this.length;
    for (const name of Object.keys(given)) {
      this.columns[name] ??= Array(before).fill(null);
    }
    for (const [name, column] of Object.entries(this.columns)) {
      column.push(...(given[name] || Array(at.length).fill(null)).slice(known));
    }
    const old = this.columns.at.findIndex((at) => at > now - windowSeconds - 10);
    const cut = old < 0 ? this.length : old;
    for (const column of Object.values(this.columns)) column.splice(0, cut);
  }

  column(name) {
    return this.columns[name] || Array(this.length).fill(null);
  }

  named(prefix) {
    return Object.keys(this.columns)
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length));
  }

  // Each second, of what counts up from the start; null over a new start.
  rate(name) {
    const { at } = this.columns;
    const column = this.columns[name];
    return at.map((moment, i) => {
      if (!i) return null;
      // What was never counted was not there to be counted.
      const gained = (column?.[i] ?? 0) - (column?.[i - 1] ?? 0);
      return gained < 0 ? null : gained / (moment - at[i - 1]);
    });
  }

  // Seconds within which this share of requests was answered, over half a minute.
  percentile(share) {
    const bounds = this.named("took_")
      .map((text) => [text === "+Inf" ? Infinity : Number(text), this.columns[`took_${text}`]])
      .sort((a, b) => a[0] - b[0]);
    return this.columns.at.map((_, i) => {
      const first = Math.max(0, i - percentileSamples);
      const counts = bounds.map(([bound, column]) => [
        bound,
        (column[i] ?? 0) - (column[first] ?? 0),
      ]);
      return withinBuckets(counts, share);
    });
  }
}

// Linear within a bucket, as Prometheus' histogram_quantile; the last bound is the most it can tell.
export function withinBuckets(counts, share) {
  const total = counts.length ? counts[counts.length - 1][1] : 0;
  if (!(total > 0) || counts.some(([, count]) => count < 0)) return null;
  const wanted = share * total;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= wanted) {
      if (bound === Infinity) return lower;
      const inside = count - below;
      return inside > 0 ? lower + ((bound - lower) * (wanted - below)) / inside : bound;
    }
    [lower, below] = [bound, count];
  }
  return lower;
}
