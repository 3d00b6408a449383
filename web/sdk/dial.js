// @ts-check
// Finding a gateway: ask an ipconf for the ranked list, then race the best few.

import { AntipodeError } from './codes.js';
import { pause } from './emitter.js';
import { readPolicy } from './policy.js';

/** @typedef {{key: string, id: string, region: string, url: string, pullUrl: string}} Gateway  key: region/id; ids are unique within a region only */
/** @typedef {{gateways: Gateway[], policy: import('./policy.js').Policy, ttlMs: number}} Endpoints */

export const SUBPROTOCOL = 'antipode.v1+json';

/** How long an ipconf has to answer before the next one is asked too. */
const NEXT_IPCONF_MS = 700;
const IPCONF_TIMEOUT_MS = 4000;

/**
 * Asks the ipconfs, each a little after the one before, and takes the first good answer.
 * @param {string[]} bases  base URLs, preferred first
 * @param {Record<string, string>} query  uid, device, platform, region, last, rtt…
 * @param {AbortSignal} signal
 * @returns {Promise<Endpoints>}
 */
export async function endpoints(bases, query, signal) {
  if (bases.length === 0) throw new AntipodeError('unavailable', 'no ipconf is known');
  const parameters = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== ''));
  return staggered(bases, NEXT_IPCONF_MS, signal, async (base, ended) => {
    const timeout = AbortSignal.any([ended, AbortSignal.timeout(IPCONF_TIMEOUT_MS)]);
    const response = await fetch(`${base.replace(/\/$/, '')}/v1/endpoints?${parameters}`, { signal: timeout, cache: 'no-cache' });
    if (!response.ok) throw new AntipodeError('unavailable', `ipconf ${base} answers ${response.status}`);
    const answer = await response.json();
    /** @type {Gateway[]} */
    const gateways = (answer.gateways ?? []).map((/** @type {any} */ g) => ({
      key: `${g.region}/${g.id}`,
      id: String(g.id),
      region: String(g.region),
      url: String(g.url),
      pullUrl: String(g.pull_url ?? ''),
    }));
    if (gateways.length === 0) throw new AntipodeError('unavailable', `ipconf ${base} knows no gateway`);
    return { gateways, policy: readPolicy(answer.policy), ttlMs: Number(answer.ttl_ms) || 30000 };
  });
}

/**
 * Opens sockets to the gateways in their order, at most width at once, each a little after the one before or at once when
 * one fails. The first that opens wins; the others are closed. No hello is sent: only the winner may claim the route.
 * @param {Gateway[]} gateways @param {import('./policy.js').Policy} policy @param {AbortSignal} signal
 * @returns {Promise<{socket: WebSocket, gateway: Gateway, ms: number}>}
 */
export async function race(gateways, policy, signal) {
  return staggered(
    gateways,
    policy.raceStagger,
    signal,
    (gateway, ended) =>
      new Promise((resolve, reject) => {
        const began = performance.now();
        const socket = new WebSocket(socketURL(gateway.url), [SUBPROTOCOL]);
        const timer = setTimeout(() => lose('did not answer in time'), policy.connectTimeout);
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
        const abort = () => lose('was slower');
        ended.addEventListener('abort', abort);
        socket.onerror = socket.onclose = () => lose('cannot be reached');
        socket.onopen = () => {
          settle();
          resolve({ socket, gateway, ms: performance.now() - began });
        };
      }),
    policy.raceWidth,
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
 * once. The first to succeed ends the others; if all fail, so does this, with the last error.
 * @template Item, Result
 * @param {Item[]} items @param {number} staggerMs @param {AbortSignal} signal
 * @param {(item: Item, ended: AbortSignal) => Promise<Result>} attempt @param {number} [width]
 * @returns {Promise<Result>}
 */
async function staggered(items, staggerMs, signal, attempt, width = items.length) {
  const ended = new AbortController();
  const either = AbortSignal.any([signal, ended.signal]);
  /** @type {Set<Promise<void>>} */
  const running = new Set();
  /** @type {{result: Result} | undefined} */
  let won;
  /** @type {unknown} */
  let lastError = new AntipodeError('unavailable', 'nothing to try');
  const queue = [...items];
  try {
    while (!won && (queue.length > 0 || running.size > 0)) {
      signal.throwIfAborted();
      const item = running.size < width ? queue.shift() : undefined;
      if (item !== undefined) {
        const run = attempt(item, either).then(
          (result) => {
            won ??= { result };
          },
          (error) => {
            lastError = error;
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
