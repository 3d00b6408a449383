// @ts-check
// Calls over HTTP, without a connection: while no socket lasts, and to regions other than the own.

import { AntipodeError } from './codes.js';
import { refusal } from './endpoints.js';
import { regionOf } from './place.js';

/** @typedef {import('./dial.js').Gateway} Gateway */

/**
 * @typedef {object} HTTPDeps
 * @property {() => Gateway[]} gateways              best first
 * @property {(key: string) => void} failed          a gateway did not answer
 * @property {() => Promise<string>} token
 * @property {number} timeoutMs                      of a call
 */

/** Gateways that one call tries. */
const TRIES = 3;

export class HTTPCalls {
  /** @param {HTTPDeps} deps @param {AbortSignal} signal  ends everything */
  constructor(deps, signal) {
    this.deps = deps;
    this.signal = signal;
  }

  /**
   * Calls a method at whichever gateway answers first, best first.
   * @param {string} method @param {string} key @param {object} body @param {string} trace
   * @param {AbortSignal} [signal]  takes the call back
   * @returns {Promise<any>}
   */
  async call(method, key, body, trace, signal = this.signal) {
    /** @type {unknown} */
    let lastError = new AntipodeError('unavailable', 'no gateway is known');
    for (const gateway of this.deps.gateways().filter((g) => g.pullUrl).slice(0, TRIES)) {
      try {
        return await this.#post(gateway, `/v1/call/im/${method}?key=${encodeURIComponent(key)}`, body, signal, trace);
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof AntipodeError) throw error; // it answered
        this.deps.failed(gateway.key);
        lastError = error;
      }
    }
    throw lastError instanceof AntipodeError ? lastError : new AntipodeError('unavailable', 'no gateway answers');
  }

  /**
   * Posts to a gateway of a region, of that of an origin.
   * @param {string} region @param {string} path @param {object} body @param {AbortSignal} [signal] @param {string} [trace]
   */
  async at(region, path, body, signal = this.signal, trace = '') {
    const gateway = this.deps.gateways().find((g) => g.region === regionOf(region) && g.pullUrl);
    if (!gateway) throw new AntipodeError('unavailable', `no gateway of ${region} is known`);
    return this.#post(gateway, path, body, signal, trace);
  }

  /** @param {Gateway} gateway @param {string} path @param {object} body @param {AbortSignal} signal @param {string} trace */
  async #post(gateway, path, body, signal, trace) {
    const response = await fetch(gateway.pullUrl.replace(/\/$/, '') + path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${await this.deps.token()}`, ...(trace && { Traceparent: trace }) },
      body: JSON.stringify(body),
      signal: AbortSignal.any([signal, AbortSignal.timeout(this.deps.timeoutMs)]),
    });
    if (!response.ok) throw await refusal(response, `gateway ${gateway.key}`);
    return response.json();
  }
}
