// @ts-check

/** A token that expires so soon is not worth showing. */
const SOON_MS = 10000;

/** The user's token, asked for when none is held or it is about to expire. */
export class Tokens {
  /** @type {{token: string, expiresMs: number} | undefined} */
  #held;

  /** @param {() => Promise<{token: string, expiresMs: number}>} ask */
  constructor(ask) {
    this.ask = ask;
  }

  async fresh() {
    if (!this.#held || this.#held.expiresMs - Date.now() < SOON_MS) this.#held = await this.ask();
    return this.#held.token;
  }

  /** It was refused: the next one is asked for. */
  forget() {
    this.#held = undefined;
  }
}
