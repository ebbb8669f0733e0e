// For what takes as long as it takes, while it moves: gives up once it has not for so long.

export class Patience {
  constructor(giveUp) {
    this.giveUp = giveUp;
  }

  // From now on.
  atMost(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.giveUp, milliseconds);
  }

  end() {
    clearTimeout(this.timer);
  }
}
