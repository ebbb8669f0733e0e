// How long to wait before another try: twice as long each time, and never as long as all others.

export class Backoff {
  constructor(first = 500, longest = 15000) {
    this.first = first;
    this.longest = longest;
    this.tries = 0;
  }

  // At least as long as an answer asked for.
  next(least = 0) {
    const whole = Math.min(this.longest, this.first * 2 ** this.tries);
    this.tries += 1;
    return Math.max(least, whole / 2) + (Math.random() * whole) / 2;
  }

  reset() {
    this.tries = 0;
  }
}

export function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
