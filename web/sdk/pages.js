// @ts-check
// How much a page of records or rows is asked to hold where the policy wishes for small frames. A request counts records, so it goes by
// what they took lately.

/** About what a record or row takes in JSON, before one was seen. */
const GUESS = 400;

export class Pages {
  /** bytes of a record or row; 0: not known yet */
  #average = 0;

  /** @param {number} most  records of a page, whatever the policy */
  constructor(most) {
    this.most = most;
  }

  /** How many to ask for. @param {number} frame  the policy's maxFrame */
  limit(frame) {
    if (frame === 0) return this.most;
    return Math.max(1, Math.min(this.most, Math.floor(frame / (this.#average || GUESS))));
  }

  /** Notes what a page took. @param {number} count @param {object} page @param {number} frame */
  came(count, page, frame) {
    if (frame === 0 || count === 0) return;
    const now = Math.max(1, JSON.stringify(page).length / count);
    this.#average = this.#average ? (3 * this.#average + now) / 4 : now;
  }
}
