// @ts-check
// Gaps that pushes show: pulled from the own region and from where the missing records were accepted, at the same time. The first
// answer that fills them wins, and the other calls are taken back.

import { covers, formatCursor, mergeCursors } from './cursor.js';
import { pause } from './emitter.js';
import { regionOf } from './place.js';
import { backOffMs } from './policy.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */

/**
 * @typedef {object} GapsDeps
 * @property {() => import('./policy.js').Policy} policy
 * @property {() => string} region                     the region that serves now
 * @property {(region: string, conversation: Conversation, upto: string, signal: AbortSignal) => Promise<any>} pull  one page
 * @property {(conversation: Conversation, page: any) => boolean} take  whether there is more
 * @property {(conversation: Conversation) => void} ended  no gap is left, or it gave up for now
 */

/** A push that is ahead of its neighbour by less is no reason to pull. */
const GRACE_MS = 120;
/** Races in a row that nobody won. */
const ATTEMPTS = 8;

export class Gaps {
  /** @type {Map<string, () => void>} the conversations being filled: tells of a further gap */
  #filling = new Map();
  /** @type {Set<string>} those of which a further gap was told since the last race began */
  #further = new Set();

  /** @param {GapsDeps} deps @param {AbortSignal} signal  ends everything */
  constructor(deps, signal) {
    this.deps = deps;
    this.signal = signal;
  }

  /**
   * Fills a conversation's gaps in the background. If that is under way, the origin of a new one is asked too.
   * @param {Conversation} conversation
   */
  fill(conversation) {
    const further = this.#filling.get(conversation.id);
    if (further) {
      this.#further.add(conversation.id);
      further();
    } else void this.#fill(conversation);
  }

  /** @param {Conversation} conversation */
  async #fill(conversation) {
    const { id, timeline } = conversation;
    this.#filling.set(id, () => {}); // the first race will see it
    try {
      await pause(GRACE_MS, this.signal);
      for (let attempt = 0; timeline.gaps().length > 0; ) {
        if (!this.#further.delete(id) && attempt >= ATTEMPTS) break; // what is new has one more race
        if (await this.#race(conversation)) attempt = 0;
        else await pause(backOffMs(this.deps.policy(), attempt++), this.signal);
      }
      this.deps.ended(conversation);
    } catch {
      // stopped
    } finally {
      this.#further.delete(id);
      this.#filling.delete(id);
    }
  }

  /**
   * Asks regions until the gaps that it knows of are filled, as many at once as the policy lets race.
   * @param {Conversation} conversation
   * @returns {Promise<boolean>} false: nobody has all of it
   */
  async #race(conversation) {
    const { id, timeline } = conversation;
    const over = new AbortController();
    const signal = AbortSignal.any([over.signal, this.signal]);
    const next = [this.deps.region()];
    const known = new Set(next);
    /** @type {import('./cursor.js').Cursor} */
    let target = new Map();
    const look = () => {
      target = mergeCursors(target, timeline.known());
      for (const region of timeline.gaps().map((gap) => regionOf(gap.origin))) {
        if (known.size < known.add(region).size) next.push(region);
      }
    };
    /** @param {string} region */
    const ask = async (region) => {
      while (this.deps.take(conversation, await this.deps.pull(region, conversation, formatCursor(target), signal)));
    };
    /** Hears of a further gap, looks for it after its grace, and listens on. @returns {Promise<void>} */
    const hear = () =>
      new Promise((heard) => this.#filling.set(id, () => heard(undefined)))
        .then(() => pause(GRACE_MS, signal))
        .then(() => {
          look();
          further = hear();
        })
        .catch(() => {}); // the race is over
    /** @type {Set<Promise<void>>} */
    const running = new Set();
    let further = hear();
    look();
    try {
      for (;;) {
        while (next.length > 0 && running.size < this.deps.policy().raceWidth) {
          const run = ask(/** @type {string} */ (next.shift()))
            .catch(() => {}) // the next one is asked
            .finally(() => running.delete(run));
          running.add(run);
        }
        if (running.size === 0) return false;
        await Promise.race([...running, further]);
        this.signal.throwIfAborted();
        if (!timeline.gaps().some((gap) => covers(target, gap.origin, gap.to))) return true;
      }
    } finally {
      over.abort();
    }
  }
}
