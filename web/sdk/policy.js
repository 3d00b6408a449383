// @ts-check
// The policy that ipconf hands to every client, and the back-off that follows it.

/**
 * All times are milliseconds.
 * @typedef {object} Policy
 * @property {number} heartbeatMin       bounds of the ping interval that a welcome asks for
 * @property {number} heartbeatMax
 * @property {number} connectTimeout     of a dial, and again from the open socket to its welcome
 * @property {number} raceWidth          how many gateways are dialled at once
 * @property {number} raceStagger        between the starts of these dials
 * @property {number} backoffBase
 * @property {number} backoffCap
 * @property {number} backoffJitter      the part of a wait that is random, 0 to 1
 * @property {number} pollFallback       a WebSocket must last so long, or be missing, for a long poll to be opened
 * @property {number} fallbackPull       having heard of nothing for so long, list and pull anyway
 * @property {number} markInterval       cursors of one conversation are sent at most this often
 * @property {number} pushAck            pushes are acknowledged at most so late
 * @property {number} maxFrame           bytes that a frame should have at most on this network; 0: no such wish
 * @property {boolean} webTransport      it may be tried, at gateways that have it
 */

/** @type {Readonly<Policy>} */
export const DEFAULT_POLICY = Object.freeze({
  heartbeatMin: 5000,
  heartbeatMax: 240000,
  connectTimeout: 5000,
  raceWidth: 3,
  raceStagger: 200,
  backoffBase: 250,
  backoffCap: 30000,
  backoffJitter: 0.8,
  pollFallback: 15000,
  fallbackPull: 60000,
  markInterval: 1000,
  pushAck: 200,
  maxFrame: 0,
  webTransport: false,
});

const HOUR = 3600000;

/**
 * Reads the policy of an ipconf answer. What is missing keeps its default, what is out of any sensible range is put
 * within it: a client must survive a bad answer.
 * @param {unknown} answer  the answer's policy object
 * @returns {Policy}
 */
export function readPolicy(answer) {
  const wire = /** @type {Record<string, unknown>} */ (answer && typeof answer === 'object' ? answer : {});
  /** @param {string} name @param {number} fallback @param {number} low @param {number} high */
  const bound = (name, fallback, low, high) => {
    const value = wire[name];
    return Math.min(high, Math.max(low, typeof value === 'number' && value > 0 ? value : fallback));
  };
  const d = DEFAULT_POLICY;
  const heartbeatMin = bound('heartbeat_min_ms', d.heartbeatMin, 10, HOUR);
  const backoffBase = bound('backoff_base_ms', d.backoffBase, 1, 60000);
  return {
    heartbeatMin,
    heartbeatMax: bound('heartbeat_max_ms', d.heartbeatMax, heartbeatMin, HOUR),
    connectTimeout: bound('connect_timeout_ms', d.connectTimeout, 100, 60000),
    raceWidth: Math.floor(bound('race_width', d.raceWidth, 1, 8)),
    raceStagger: bound('race_stagger_ms', d.raceStagger, 1, 10000),
    backoffBase,
    backoffCap: bound('backoff_cap_ms', d.backoffCap, backoffBase, HOUR),
    backoffJitter: bound('backoff_jitter', d.backoffJitter, 0, 1),
    pollFallback: bound('poll_fallback_ms', d.pollFallback, 100, HOUR),
    fallbackPull: bound('fallback_pull_ms', d.fallbackPull, 100, HOUR),
    markInterval: bound('mark_interval_ms', d.markInterval, 10, 60000),
    pushAck: bound('push_ack_ms', d.pushAck, 1, 10000),
    maxFrame: wire.max_frame_bytes ? bound('max_frame_bytes', 0, 512, 1 << 20) : 0,
    webTransport: wire.webtransport === true,
  };
}

/**
 * How long to wait before a further try: min(cap, base·2^attempt), attempt counting from 0, of which the jitter part is
 * random, so that clients which lost one gateway do not come back together.
 * @param {Policy} policy @param {number} attempt @param {number} [retryAfterMs]  the server's word: never earlier
 * @param {() => number} [random]
 */
export function backOffMs(policy, attempt, retryAfterMs = 0, random = Math.random) {
  const full = Math.min(policy.backoffCap, policy.backoffBase * 2 ** Math.min(attempt, 30));
  const wait = full * (1 - policy.backoffJitter * random());
  return retryAfterMs > 0 ? retryAfterMs + wait * random() : wait;
}
