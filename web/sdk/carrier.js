// @ts-check
// What carries frames: a WebSocket, or a long poll where networks end every WebSocket.

/** WebSockets in a row that were cut before they lasted: the network bears none. */
const CUTS = 3;
/** Bounds the wait between two WebSockets tried from a long poll. */
const MAX_TRIAL_MS = 600000;
/** The part of that wait that is random. */
const TRIAL_JITTER = 0.2;

/**
 * Decides which of them is next. It has no clock: callers pass the time in ms, fallback, which is the policy's pollFallback, and a
 * random number in [0, 1).
 *
 *                cut 3 times in a row before lasting, or none for so long
 *   WebSocket ──────────────────────────────────────────────────────────▶ long poll
 *     ▲  │                                                                  │  ▲
 *     │  └─── cut before it lasted: at once, and the next wait is twice ────┼──┘
 *     └─────────────────── tried after 2 × fallback, then twice as long ────┘
 */
export class Carrier {
  /** when there was a connection last */
  lost;
  /** from a long poll: when to try a WebSocket next */
  due = Infinity;
  #polling = false;
  #up = false;
  /** WebSockets in a row that were cut before they lasted */
  #cuts = 0;
  /** the WebSocket in use was tried from a long poll */
  #trial = false;
  /** WebSockets tried from the long poll since one lasted */
  #trials = 0;
  /** the last try to open one failed: the other way next */
  #other = false;

  /** @param {number} now */
  constructor(now) {
    this.lost = now;
  }

  /** Whether to open a long poll next. @param {number} now @param {number} fallback @param {number} random */
  polls(now, fallback, random) {
    if (!this.#polling && !this.#up && now - this.lost >= fallback) this.#degrade(now, fallback, random);
    return this.#polling && !this.#other;
  }

  /** A connection was welcomed. @param {boolean} polled */
  opened(polled) {
    this.#up = true;
    this.#other = false;
    if (!polled && this.#polling) {
      this.#polling = false;
      this.#trial = true;
    }
  }

  /** None could be opened. A long poll may be what the network does not bear. */
  failed() {
    if (this.#polling) this.#other = !this.#other;
  }

  /**
   * A connection is gone.
   * @param {{polled: boolean, lasted: number, cut: boolean}} what  cut: by the network, not by the gateway with a code
   * @param {number} now @param {number} fallback @param {number} random
   */
  ended({ polled, lasted, cut }, now, fallback, random) {
    this.#up = false;
    this.lost = now;
    if (polled) return;
    if (lasted >= fallback) {
      this.#cuts = this.#trials = 0;
      this.#trial = false;
    } else if (cut && (++this.#cuts >= CUTS || this.#trial)) {
      this.#degrade(now, fallback, random);
    }
  }

  /** A WebSocket was tried from the long poll, in vain. @param {number} now @param {number} fallback @param {number} random */
  tried(now, fallback, random) {
    const wait = Math.min(MAX_TRIAL_MS, 2 * fallback * 2 ** this.#trials++);
    this.due = now + wait * (1 - TRIAL_JITTER * random);
  }

  /** The device is in another network, which may bear WebSockets. @param {number} now */
  moved(now) {
    this.#cuts = this.#trials = 0;
    this.due = now;
    if (this.#up) return;
    this.#polling = this.#trial = this.#other = false;
    this.lost = now;
  }

  /** @param {number} now @param {number} fallback @param {number} random */
  #degrade(now, fallback, random) {
    this.#polling = true;
    this.#trial = this.#other = false;
    this.#cuts = 0;
    this.tried(now, fallback, random);
  }
}
