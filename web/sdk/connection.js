// @ts-check
// One socket: frames out, frames in. It knows nothing of messages.

import { AntipodeError, CODES } from './codes.js';
import { Emitter, pause } from './emitter.js';
import { OPEN, size } from './socket.js';

/**
 * @typedef {object} Welcome
 * @property {string} [uid]
 * @property {string} [session]
 * @property {string} [resumeSecret]
 * @property {number} [resumeWindowMs]
 * @property {boolean} [resumed]
 * @property {string} [region]
 * @property {string} [origin]
 * @property {string} [gateway]
 * @property {string} [serverTimeMs]
 * @property {number} [heartbeatMs]
 * @property {number} [maxFrameBytes]
 * @property {number} [maxTextBytes]
 */
/** @typedef {{number: bigint, service: string, method: string, body: any, trace: string}} Push */
/** @typedef {{resolve: (body: any) => void, reject: (error: AntipodeError) => void}} Waiting */

/** How long a pong may take when nothing else is heard either, and longer where connecting may. */
const PONG_MS = 5000;
/** How long a connection that was replaced waits for its calls. */
const RETIRE_MS = 2000;

/**
 * Events: welcome, before any frame that comes with it; push; behind (pushes up to this number will not come); goaway; rtt (ms); closed, once and last.
 * @extends {Emitter<{welcome: Welcome, push: Push, behind: bigint, goaway: {withinMs: number, alternatives: string[]}, rtt: number, closed: AntipodeError}>}
 */
export class Connection extends Emitter {
  /** how many frames came */
  heard = 0;
  /** @type {Map<number, Waiting>} */
  #calls = new Map();
  /** told when none of them is left */
  #idle = () => {};
  #nextCall = 1;
  #heartbeatMs = 0;
  #patienceMs = PONG_MS;
  #sentAt = 0;
  #heardAt = 0;
  #pingAt = 0;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticker;
  /** @type {AntipodeError | undefined} the error frame that came before a close */
  #lastError;
  /** @type {((welcome: Welcome) => void) | undefined} */
  #welcomed;
  #ended = new AbortController();
  #maxFrame = Infinity;

  /** Aborts when the connection is over. */
  get ended() {
    return this.#ended.signal;
  }

  /** @param {import('./socket.js').Socket} socket  open */
  constructor(socket) {
    super();
    this.socket = socket;
    /** @type {Promise<AntipodeError>} resolves with the reason when the connection is over */
    this.closed = new Promise((resolve) => this.on('closed', resolve));
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = ({ code, reason, error }) => this.#end(error ?? this.#why(code) ?? AntipodeError.ofClose(code, reason));
  }

  /**
   * Sends the first frame and waits for the welcome.
   * @param {object} hello @param {import('./policy.js').Policy} policy
   * @returns {Promise<void>}
   */
  hello(hello, policy) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.leave(new AntipodeError('unavailable', 'no welcome in time')), policy.connectTimeout);
      this.on('closed', (error) => {
        clearTimeout(timer);
        reject(error);
      });
      this.#welcomed = (welcome) => {
        this.#welcomed = undefined;
        clearTimeout(timer);
        this.#maxFrame = welcome.maxFrameBytes || Infinity;
        this.#patienceMs = Math.max(PONG_MS, policy.connectTimeout);
        this.#beat(Math.min(policy.heartbeatMax, Math.max(policy.heartbeatMin, welcome.heartbeatMs || 25000)));
        resolve();
        this.emit('welcome', welcome); // at once: pushes may have come with it
      };
      this.#send({ hello });
    });
  }

  /**
   * Calls a method of a service. The gateway need not go on with a call that nobody waits for any more: it is told.
   * @param {string} method @param {string} key @param {object} body
   * @param {{service?: string, trace?: string, timeoutMs: number, signal?: AbortSignal}} options  signal: takes the call back
   * @returns {Promise<any>} the response's body
   */
  call(method, key, body, { service = 'im', trace = '', timeoutMs, signal }) {
    return new Promise((resolve, reject) => {
      if (this.ended.aborted) return reject(new AntipodeError('unavailable', 'not connected'));
      if (signal?.aborted) return reject(signal.reason);
      const id = this.#nextCall++;
      const frame = JSON.stringify({ call: { id, service, method, key, body, ...(trace && { trace }) } });
      if (size(frame) > this.#maxFrame) return reject(new AntipodeError('frame_too_large', 'the request is too large'));
      const settle = () => {
        this.#calls.delete(id);
        if (this.#calls.size === 0) this.#idle();
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
      };
      /** @param {unknown} why */
      const forget = (why) => {
        settle();
        this.#send({ cancel: { id } });
        reject(why);
      };
      const abort = () => forget(signal?.reason);
      const timer = setTimeout(() => forget(new AntipodeError('unavailable', `${method} got no answer in time`)), timeoutMs);
      signal?.addEventListener('abort', abort);
      this.#calls.set(id, {
        resolve: (answer) => (settle(), resolve(answer)),
        reject: (error) => (settle(), reject(error)),
      });
      this.#sendText(frame);
    });
  }

  /** @param {bigint} number  every push up to it was taken */
  pushAck(number) {
    this.#send({ pushAck: { number: number.toString() } });
  }

  /** Asks for a sign of life now: after a sleep, a socket may look open and be dead. */
  probe() {
    if (this.ended.aborted || this.#heartbeatMs === 0) return;
    if (this.socket.poke) this.socket.poke();
    else this.#ping();
  }

  /** Ends the session: nothing is kept for a resume. */
  bye() {
    this.#send({ bye: {} });
    this.leave(new AntipodeError('unavailable', 'closed by this client'));
  }

  /** Leaves a connection that another one has replaced, as soon as the calls under way are answered. */
  async retire() {
    if (this.#calls.size > 0) {
      const answered = new AbortController();
      this.#idle = () => answered.abort();
      await pause(RETIRE_MS, AbortSignal.any([this.ended, answered.signal])).catch(() => {});
    }
    this.bye();
  }

  /**
   * Closes the socket without waiting for the other side.
   * @param {AntipodeError} why
   */
  leave(why) {
    if (this.socket.readyState <= OPEN) this.socket.close(1000);
    this.#end(why);
  }

  /** @param {object} frame */
  #send(frame) {
    this.#sendText(JSON.stringify(frame));
  }

  /** @param {string} text */
  #sendText(text) {
    if (this.socket.readyState !== OPEN) return; // its close is on the way, and says why
    this.#sentAt = performance.now();
    this.socket.send(text);
  }

  /** @param {unknown} data */
  #receive(data) {
    if (this.ended.aborted) return;
    this.#heardAt = performance.now();
    this.heard++;
    /** @type {any} */
    let frame;
    try {
      frame = typeof data === 'object' ? data : JSON.parse(String(data));
    } catch {
      return this.leave(new AntipodeError('unavailable', 'the gateway sent a frame that does not decode'));
    }
    if (frame.push) {
      const { number, service, method, body, trace } = frame.push;
      this.emit('push', { number: BigInt(number ?? 0), service: service || 'im', method: method ?? '', body: body ?? {}, trace: trace ?? '' });
    } else if (frame.reply) {
      const waiting = this.#calls.get(frame.reply.id);
      if (!waiting) return; // it was taken back
      if (frame.reply.error) waiting.reject(AntipodeError.of(frame.reply.error));
      else waiting.resolve(frame.reply.body ?? {});
    } else if (frame.pong) {
      if (this.#pingAt) this.emit('rtt', performance.now() - this.#pingAt);
      this.#pingAt = 0;
    } else if (frame.welcome) {
      this.#welcomed?.(frame.welcome);
    } else if (frame.behind) {
      this.emit('behind', BigInt(frame.behind.number ?? 0));
    } else if (frame.goaway) {
      this.emit('goaway', { withinMs: frame.goaway.withinMs ?? 0, alternatives: frame.goaway.alternatives ?? [] });
    } else if (frame.error) {
      this.#lastError = AntipodeError.of(frame.error); // a close follows if the code has one; if not, the connection goes on
    }
    // Frames of a kind that this version does not know are skipped: a newer gateway may send them.
  }

  /**
   * Pings when nothing else was sent or nothing was heard for so long, and gives the socket up when no pong comes.
   * @param {number} everyMs
   */
  #beat(everyMs) {
    this.#heartbeatMs = everyMs;
    if (this.socket.poke) return;
    this.#heardAt = performance.now();
    this.#ping(); // measures the round trip early
    const tick = Math.max(50, Math.min(1000, everyMs / 5));
    const drawn = () => everyMs * (1 - 0.1 * Math.random()) - tick; // never late; and at random, so that the pings of many form no tide
    let rest = drawn();
    this.#ticker = setInterval(() => {
      const now = performance.now();
      const quiet = Math.min(now - this.#pingAt, now - this.#heardAt);
      if (this.#pingAt && quiet > this.#patienceMs) this.leave(new AntipodeError('unavailable', 'the gateway fell silent'));
      else if (now - this.#sentAt >= rest || now - this.#heardAt >= everyMs) {
        rest = drawn();
        this.#ping();
      }
    }, tick);
  }

  #ping() {
    if (this.#pingAt) return; // one is under way
    this.#pingAt = performance.now();
    this.#send({ ping: {} });
  }

  /**
   * The error frame before a close says more than the close, if it was about it.
   * @param {number} close
   */
  #why(close) {
    const error = this.#lastError;
    if (!error) return undefined;
    const spec = CODES[error.code];
    const lost = close === 1005 || close === 1006;
    return !spec || spec.close === close || (lost && spec.close !== 0) ? error : undefined;
  }

  /** @param {AntipodeError} why */
  #end(why) {
    if (this.ended.aborted) return;
    this.#ended.abort();
    clearInterval(this.#ticker);
    for (const { reject } of [...this.#calls.values()]) reject(new AntipodeError('unavailable', 'the connection was lost before the answer came'));
    this.emit('closed', why);
  }
}
