// @ts-check
// Dialling: race the best few gateways, and the ways to each.

import { AntipodeError } from './codes.js';
import { pause } from './emitter.js';
import { SUBPROTOCOL } from './socket.js';
import { openStream, StreamSocket } from './stream.js';

/** @typedef {import('./socket.js').Socket} Socket */
/** @typedef {import('./policy.js').Policy} Policy */
/** @typedef {import('./stream.js').Streams} Streams */

/**
 * @typedef {object} Gateway
 * @property {string} key        region/id; ids are unique within a region only
 * @property {string} id
 * @property {string} region
 * @property {string} url        of the WebSocket
 * @property {string} pullUrl    of calls and long polls; empty: it has none
 * @property {string} streamUrl  of WebTransport; empty: it has none
 */

/**
 * Reads a gateway of an ipconf's answer or a catalogue.
 * @param {any} wire
 * @returns {Gateway}
 */
export const gatewayOf = (wire) => ({
  key: `${wire.region}/${wire.id}`,
  id: String(wire.id),
  region: String(wire.region),
  url: String(wire.url),
  pullUrl: String(wire.pull_url ?? ''),
  streamUrl: String(wire.webtransport_url ?? ''),
});

/**
 * Opens sockets to the gateways in their order, at most width at once, each a little after the one before or at once when
 * one fails. The first that opens wins; the others are closed. No hello is sent: only the winner may claim the route.
 * @param {Gateway[]} gateways @param {Policy} policy @param {Streams} streams @param {AbortSignal} signal
 * @param {(key: string) => void} [failed]  told of each that could not be reached
 * @returns {Promise<{socket: Socket, gateway: Gateway}>}
 */
export async function race(gateways, policy, streams, signal, failed) {
  /** @param {Gateway} gateway @param {AbortSignal} ended */
  const attempt = async (gateway, ended) => {
    try {
      return { socket: await dial(gateway, policy, streams, ended), gateway };
    } catch (error) {
      if (!ended.aborted) failed?.(gateway.key);
      throw error;
    }
  };
  return staggered(gateways, policy.raceStagger, signal, attempt, { width: policy.raceWidth, drop: ({ socket }) => socket.close() });
}

/**
 * Opens a socket to one gateway. WebTransport, where it may be tried, has a stagger's time ahead of the WebSocket, and the first to be
 * open wins.
 * @param {Gateway} gateway @param {Policy} policy @param {Streams} streams @param {AbortSignal} ended
 * @returns {Promise<Socket>}
 */
async function dial(gateway, policy, streams, ended) {
  const signal = AbortSignal.any([ended, AbortSignal.timeout(policy.connectTimeout)]);
  if (!streams.may(gateway, policy)) return openWebSocket(gateway, signal);
  /** @type {((gateway: Gateway, signal: AbortSignal) => Promise<Socket>)[]} */
  const ways = [(g, over) => openStream(g, over, streams.certificates), openWebSocket];
  const socket = await staggered(ways, policy.raceStagger, signal, (open, over) => open(gateway, over), { drop: (late) => late.close() });
  if (!(socket instanceof StreamSocket)) streams.failed();
  return socket;
}

/**
 * @param {Gateway} gateway @param {AbortSignal} signal
 * @returns {Promise<Socket>}
 */
function openWebSocket(gateway, signal) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(socketURL(gateway.url), [SUBPROTOCOL]);
    const settle = () => {
      signal.removeEventListener('abort', fail);
      socket.onopen = socket.onerror = socket.onclose = null;
    };
    const fail = () => {
      settle();
      socket.close();
      reject(new AntipodeError('unavailable', `gateway ${gateway.key} ${signal.aborted ? 'did not answer in time' : 'cannot be reached'}`));
    };
    signal.addEventListener('abort', fail);
    socket.onerror = socket.onclose = fail;
    socket.onopen = () => {
      settle();
      resolve(socket);
    };
  });
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
 * @param {{width?: number, decides?: (error: unknown) => boolean, drop?: (result: Result) => void}} [options]  drop: takes what came in second
 * @returns {Promise<Result>}
 */
export async function staggered(items, staggerMs, signal, attempt, { width = items.length, decides = () => false, drop = () => {} } = {}) {
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
            if (won) drop(result);
            else won = { result };
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
