// @ts-check
// Submits that are no text: groups, members, titles. Each waits for its ack, and keeps its client_id however often it is sent.

import { AntipodeError } from './codes.js';
import { pause } from './emitter.js';
import { group, traceparent, uuidv7 } from './ids.js';
import { backOffMs } from './policy.js';

/**
 * A submit, and how often it was sent.
 * @typedef {{conversation: string, body: object, trace: string, sent: number}} Submit
 */

/**
 * @typedef {object} SubmitsDeps
 * @property {() => import('./policy.js').Policy} policy
 * @property {() => number} now                                     the server's clock, Unix ms
 * @property {() => string} origin                                  under which the region that serves now accepts
 * @property {(conversation: string) => string} seen                the highest stamp of a conversation
 * @property {() => Promise<void>} reachable                        waits until calls can be made, or throws
 * @property {(submit: Submit) => Promise<any>} send
 * @property {(region: string, submit: Submit) => Promise<any>} sendTo  over HTTP, to a gateway of a region
 */

/** How often a group's region is asked over HTTP after the client has moved to another. */
const CREATE_TRIES = 5;

export class Submits {
  /** @param {SubmitsDeps} deps @param {AbortSignal} signal  ends everything */
  constructor(deps, signal) {
    this.deps = deps;
    this.signal = signal;
  }

  /** @param {string} conversation @param {object} content */
  submit(conversation, content) {
    return this.#send(this.#of(conversation, content));
  }

  /**
   * Creates a group in the region that serves now, which its id names. If another region took over before the ack was there, that
   * one answers wrong_region. Then, if the record cannot have landed, it is created anew there; if it may have, the region of the
   * first try is asked over HTTP with the same ids, and the error stands if it does not answer: the group may exist, and
   * appears in the list if it does.
   * @param {string} title @param {string[]} members
   * @returns {Promise<string>} its conversation
   */
  async createGroup(title, members) {
    for (let attempt = 0; ; attempt++) {
      const id = group(this.deps.origin(), this.deps.now());
      const submit = this.#of(id, { create: { title, members } });
      try {
        await this.#send(submit);
        return id;
      } catch (error) {
        if (!(error instanceof AntipodeError) || error.code !== 'wrong_region') throw error;
        if (submit.sent > 1) return this.#createAt(id, submit, error);
        if (attempt > 3) throw error;
      }
    }
  }

  /**
   * Repeats a create in the region that its id names.
   * @param {string} id @param {Submit} submit @param {AntipodeError} refused
   */
  async #createAt(id, submit, refused) {
    const region = id.split(':')[1];
    for (let attempt = 0; attempt < CREATE_TRIES; attempt++) {
      try {
        await this.deps.sendTo(region, submit);
        return id;
      } catch (error) {
        this.signal.throwIfAborted();
        if (error instanceof AntipodeError && error.action === 'stop') throw error;
        const retryAfterMs = error instanceof AntipodeError ? error.retryAfterMs : 0;
        await pause(backOffMs(this.deps.policy(), attempt, retryAfterMs), this.signal);
      }
    }
    throw refused;
  }

  /**
   * @param {string} conversation @param {object} content
   * @returns {Submit}
   */
  #of(conversation, content) {
    const body = { conversation, clientId: uuidv7(this.deps.now()), seen: this.deps.seen(conversation), ...content };
    return { conversation, body, trace: traceparent(), sent: 0 };
  }

  /**
   * Waits for the ack, keeping the client_id across a few retries.
   * @param {Submit} submit
   */
  async #send(submit) {
    for (let attempt = 0; ; attempt++) {
      await this.deps.reachable();
      submit.sent++;
      try {
        return await this.deps.send(submit);
      } catch (error) {
        if (!(error instanceof AntipodeError) || error.action === 'stop' || attempt >= 6) throw error;
        await pause(backOffMs(this.deps.policy(), attempt, error.retryAfterMs), this.signal);
      }
    }
  }
}
