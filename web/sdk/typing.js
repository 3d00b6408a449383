// @ts-check
// Who types: the own word of it, told at most every few seconds, and that of others, believed for some seconds. Nothing of it is kept.

/**
 * @typedef {object} TypingDeps
 * @property {string} uid
 * @property {(method: string, key: string, body: object) => Promise<any>} tell  a call, if there is a connection
 * @property {(conversation: string) => void} changed
 * @property {() => number} [now]  ms
 */

/** How often others are told at most that the user goes on typing. */
const EVERY_MS = 3000;
/** How long who was said to type is believed to. */
const LASTS_MS = 5000;
/** Users of all conversations that are remembered at once. */
const MAX_TYPISTS = 256;

export class Typing {
  /** @type {Map<string, number>} when others were told last, by conversation */
  #told = new Map();
  /** @type {Map<string, Map<string, ReturnType<typeof setTimeout>>>} who types, by conversation */
  #typists = new Map();
  #count = 0;

  /** @param {TypingDeps} deps @param {AbortSignal} signal  ends everything */
  constructor(deps, signal) {
    this.deps = deps;
    signal.addEventListener('abort', () => {
      for (const typists of this.#typists.values()) for (const timer of typists.values()) clearTimeout(timer);
    });
  }

  /**
   * The user types, or not any more. To be called at every key.
   * @param {string} conversation @param {boolean} [stopped]
   */
  tell(conversation, stopped = false) {
    if (conversation.startsWith('s:')) return; // super groups do not tell
    const now = (this.deps.now ?? (() => performance.now()))();
    const age = now - (this.#told.get(conversation) ?? -Infinity);
    if (stopped ? age >= LASTS_MS : age < EVERY_MS) return;
    if (stopped) this.#told.delete(conversation);
    else this.#told.set(conversation, now);
    const body = { conversation, ...(stopped && { stopped }) };
    this.deps.tell('typing', conversation, body).catch(() => {}); // it would be too late to say it again
  }

  /** What was typed was sent: that says it all. @param {string} conversation */
  sent(conversation) {
    this.#told.delete(conversation);
  }

  /** Who types there now. @param {string} conversation @returns {string[]} */
  who(conversation) {
    return [...(this.#typists.get(conversation)?.keys() ?? [])];
  }

  /** @param {{conversation?: string, uid?: string, stopped?: boolean}} event */
  hear({ conversation = '', uid = '', stopped = false }) {
    if (!conversation || !uid || uid === this.deps.uid) return;
    if (stopped) return this.stop(conversation, uid);
    const typists = this.#typists.get(conversation) ?? new Map();
    const known = typists.has(uid);
    if (!known && this.#count >= MAX_TYPISTS) return;
    clearTimeout(typists.get(uid));
    typists.set(uid, setTimeout(() => this.stop(conversation, uid), LASTS_MS));
    this.#typists.set(conversation, typists);
    if (known) return;
    this.#count++;
    this.deps.changed(conversation);
  }

  /** @param {string} conversation @param {string} uid */
  stop(conversation, uid) {
    const typists = this.#typists.get(conversation);
    if (!typists?.has(uid)) return;
    clearTimeout(typists.get(uid));
    typists.delete(uid);
    if (typists.size === 0) this.#typists.delete(conversation);
    this.#count--;
    this.deps.changed(conversation);
  }
}
