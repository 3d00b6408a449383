// @ts-check
// Messages on their way out. Each keeps its client_id until it is accepted or refused for good, across retries, sockets,
// gateways, regions and page loads, so a resend never shows twice.
//
// Per conversation the messages go out in order, some of them without waiting for the answers of those before. When one fails and may be
// retried, those behind it on the conn fail too (queue_failed): the queue waits until none is under way, backs off, and
// sends what is left in order again.

import { AntipodeError } from './codes.js';
import { uuidMillis } from './ids.js';
import { backOffMs, DEFAULT_POLICY } from './policy.js';

/** @typedef {import('./store.js').Unsent & {flying: boolean}} Item */
/** @typedef {{items: Item[], timer: ReturnType<typeof setTimeout> | undefined, attempt: number, retryAfterMs: number, failed: boolean}} Queue */

/** The server refuses client_ids older than 24 h; well before, the user is told. */
const MAX_AGE_MS = 23 * 3600 * 1000;

/**
 * @typedef {object} OutboxDeps
 * @property {(item: Item) => Promise<any>} submit      resolves with the SubmitResponse
 * @property {() => number} window                       how many of a conversation may be under way; 0: not connected
 * @property {() => number} now                          server's clock, Unix ms
 * @property {(item: Item, response: any) => void} accepted
 * @property {(item: Item, error: AntipodeError) => void} refused
 * @property {(list: import('./store.js').Unsent[]) => void} keep
 */

export class Outbox {
  /** @type {Map<string, Queue>} */
  #queues = new Map();
  policy = DEFAULT_POLICY;

  /** @param {OutboxDeps} deps */
  constructor(deps) {
    this.deps = deps;
  }

  /** @param {import('./store.js').Unsent} message */
  add(message) {
    this.#queue(message.conversation).items.push({ ...message, flying: false });
    this.#keep();
    this.#pump(message.conversation);
  }

  /** Everything not answered is sent (again), in order: called when a connection is up. */
  resend() {
    for (const [conversation, queue] of this.#queues) {
      clearTimeout(queue.timer);
      queue.timer = undefined;
      queue.attempt = 0;
      this.#pump(conversation);
    }
  }

  stop() {
    for (const queue of this.#queues.values()) clearTimeout(queue.timer);
  }

  /** @param {string} conversation @returns {Queue} */
  #queue(conversation) {
    let queue = this.#queues.get(conversation);
    if (!queue) {
      queue = { items: [], timer: undefined, attempt: 0, retryAfterMs: 0, failed: false };
      this.#queues.set(conversation, queue);
    }
    return queue;
  }

  #keep() {
    /** @type {import('./store.js').Unsent[]} */
    const list = [];
    for (const { items } of this.#queues.values()) for (const { flying: _, ...message } of items) list.push(message);
    this.deps.keep(list);
  }

  /** @param {string} conversation */
  #pump(conversation) {
    const queue = this.#queue(conversation);
    if (queue.timer !== undefined || queue.failed) return;
    let room = this.deps.window() - queue.items.filter((item) => item.flying).length;
    for (const item of queue.items.filter((i) => !i.flying)) {
      if (room <= 0) return;
      if (this.deps.now() - uuidMillis(item.clientId) > MAX_AGE_MS) {
        this.#settle(queue, item);
        this.deps.refused(item, new AntipodeError('bad_client_id', 'it waited for too long'));
        continue;
      }
      room--;
      item.flying = true;
      this.deps.submit(item).then(
        (response) => {
          this.#settle(queue, item);
          queue.attempt = 0;
          this.deps.accepted(item, response);
          this.#after(conversation, queue);
        },
        (error) => {
          item.flying = false;
          const known = error instanceof AntipodeError ? error : new AntipodeError('unavailable', String(error));
          if (known.action === 'stop') {
            this.#settle(queue, item);
            this.deps.refused(item, known);
          } else {
            queue.failed = true;
            queue.retryAfterMs = Math.max(queue.retryAfterMs, known.retryAfterMs);
          }
          this.#after(conversation, queue);
        },
      );
    }
  }

  /**
   * When nothing is under way any more after a failure, the rest goes out again after a wait.
   * @param {string} conversation @param {Queue} queue
   */
  #after(conversation, queue) {
    if (!queue.failed) return this.#pump(conversation);
    if (queue.items.some((item) => item.flying)) return;
    queue.failed = false;
    const wait = backOffMs(this.policy, queue.attempt++, queue.retryAfterMs);
    queue.retryAfterMs = 0;
    if (queue.items.length === 0) return;
    queue.timer = setTimeout(() => {
      queue.timer = undefined;
      this.#pump(conversation);
    }, wait);
  }

  /** @param {Queue} queue @param {Item} item */
  #settle(queue, item) {
    queue.items = queue.items.filter((other) => other !== item);
    this.#keep();
  }
}
