// @ts-check
// Dialling: race the best few gateways.

import { AntipodeError } from './codes.js';
import { pause } from './emitter.js';

/** @typedef {{key: string, id: string, region: string, url: string, pullUrl: string}} Gateway  key: region/id; ids are unique within a region only */

export const SUBPROTOCOL = 'antipode.v1+json';

/**
 * Opens sockets to the gateways in their order, at most width at once, each a little after the one before or at once when
 * one fails. The first that opens wins; the others are closed. No hello is sent: only the winner may claim the route.
 * @param {Gateway[]} gateways @param {import('./policy.js').Policy} policy @param {AbortSignal} signal
 * @param {(key: string) => void} [failed]  told of each that could not be reached
 * @returns {Promise<{socket: WebSocket, gateway: Gateway, ms: number}>}
 */
export async function race(gateways, policy, signal, failed) {
  return staggered(
    gateways,
    policy.raceStagger,
    signal,
    (gateway, ended) =>
      new Promise((resolve, reject) => {
        const began = performance.now();
        const socket = new WebSocket(socketURL(gateway.url), [SUBPROTOCOL]);
        const timer = setTimeout(() => fail('did not answer in time'), policy.connectTimeout);
        const settle = () => {
          clearTimeout(timer);
          ended.removeEventListener('abort', abort);
          socket.onopen = socket.onerror = socket.onclose = null;
        };
        /** @param {string} why */
        const lose = (why) => {
          settle();
          socket.close();
          reject(new AntipodeError('unavailable', `gateway ${gateway.key} ${why}`));
        };
        /** @param {string} why */
        const fail = (why) => {
          failed?.(gateway.key);
          lose(why);
        };
        const abort = () => lose('was slower');
        ended.addEventListener('abort', abort);
        socket.onerror = socket.onclose = () => fail('cannot be reached');
        socket.onopen = () => {
          settle();
          resolve({ socket, gateway, ms: performance.now() - began });
        };
      }),
    { width: policy.raceWidth },
  );
}

/** @param {string} url */
export function socketURL(url) {
  const u = new URL(url);
  if (u.protocol === 'http:') u.protocol = 'ws:';
  if (u.protocol === 'https:') u.protocol = 'wss:';
  if (u.pathname === '/') u.pathname = '/v1/ws';
  return u.href;
}

/**
 * Runs attempt over the items: the next starts when the stagger has passed or an earlier one fails, at most width at
 * once. The first to succeed ends the others, and so does an error that decides; if all fail, so does this, with the last error.
 * @template Item, Result
 * @param {Item[]} items @param {number} staggerMs @param {AbortSignal} signal
 * @param {(item: Item, ended: AbortSignal) => Promise<Result>} attempt
 * @param {{width?: number, decides?: (error: unknown) => boolean}} [options]
 * @returns {Promise<Result>}
 */
export async function staggered(items, staggerMs, signal, attempt, { width = items.length, decides = () => false } = {}) {
  const ended = new AbortController();
  const either = AbortSignal.any([signal, ended.signal]);
  /** @type {Set<Promise<void>>} */
  const running = new Set();
  /** @type {{result: Result} | undefined} */
  let won;
  let decided = false;
  /** @type {unknown} */
  let lastError = new AntipodeError('unavailable', 'nothing to try');
  const queue = [...items];
  try {
    while (!won && !decided && (queue.length > 0 || running.size > 0)) {
      signal.throwIfAborted();
      const item = running.size < width ? queue.shift() : undefined;
      if (item !== undefined) {
        const run = attempt(item, either).then(
          (result) => {
            won ??= { result };
          },
          (error) => {
            if (decided) return;
            lastError = error;
            decided = decides(error);
          },
        );
        const tracked = run.finally(() => running.delete(tracked));
        running.add(tracked);
      }
      const stop = new AbortController();
      const waits = [...running];
      if (queue.length > 0 && running.size < width) waits.push(pause(staggerMs, AbortSignal.any([signal, stop.signal])).catch(() => {}));
      await Promise.race(waits);
      stop.abort();
    }
  } finally {
    ended.abort();
  }
  if (won) return won.result;
  signal.throwIfAborted();
  throw lastError;
}
