// @ts-check
// A socket made of requests (docs/protocol.md, Long poll): one that holds brings frames, one that does not takes them away.

import { AntipodeError } from './codes.js';
import { pause } from './emitter.js';
import { refusal } from './endpoints.js';
import { OPEN, size } from './socket.js';

/** @typedef {import('./socket.js').Socket} Socket */
/** @typedef {(body: string, signal: AbortSignal) => Promise<any>} Post  posts a request and returns its answer */
/** @typedef {{conn: string, number: number, frames: string[]}} Question */

/** How long an answer may wait for frames; after held requests that were cut, half as long each time, but so long at least. */
const MAX_HOLD_MS = 25000;
const MIN_HOLD_MS = 2000;
/** Frames of one request. */
const BATCH = 64;
/** Frames that wait to be sent. */
const MAX_WAITING = 1024;
/** How long what was written may take to leave once the socket is closed. */
const FAREWELL_MS = 5000;
const RETRY_MS = 100;
const MAX_RETRY_MS = 2000;

/**
 * A request without an answer is sent again under its number for patience; then the socket is lost, as a WebSocket is, and its session
 * can be resumed. All frames but the first go by requests that do not hold: those of requests under way together are handled in
 * no given order.
 *
 * @implements {Socket}
 */
export class PollSocket {
  readyState = OPEN;
  /** @type {((event: {data: object}) => void) | null} */
  onmessage = null;
  /** @type {((event: {code: number, reason: string, error?: AntipodeError}) => void) | null} */
  onclose = null;
  #conn = '';
  /** @type {string[]} */
  #waiting = [];
  #begun = false;
  #sending = false;
  /** requests that do not hold */
  #sent = 0;
  /** bytes of the frames of one request, unless a frame alone has more; a gateway takes twice its largest frame */
  #most = 4096;
  #over = new AbortController();
  /** the request that holds */
  #held = new AbortController();

  /** @param {Post} post @param {number} patienceMs @param {number} [wish]  the policy's maxFrame: bytes of the frames of one request; 0: no such wish */
  constructor(post, patienceMs, wish = 0) {
    this.post = post;
    this.patienceMs = patienceMs;
    this.wish = wish || Infinity;
  }

  /** @param {string} frame */
  send(frame) {
    if (!this.#begun) {
      this.#begun = true;
      void this.#until(this.#receive(frame));
    } else if (this.#waiting.push(frame) > MAX_WAITING) {
      this.#end({ error: new AntipodeError('unavailable', 'the gateway takes no more') });
    } else {
      void this.#until(this.#transmit());
    }
  }

  /** What was written still leaves: a bye ends the connection. */
  close() {
    if (this.readyState > OPEN) return;
    this.readyState = OPEN + 1;
    this.#held.abort();
    if (!this.#sending) return this.#over.abort();
    const timer = setTimeout(() => this.#over.abort(), FAREWELL_MS);
    this.#over.signal.addEventListener('abort', () => clearTimeout(timer));
  }

  /** Repeats the request that holds: its connection may have died unnoticed. */
  poke() {
    this.#held.abort();
  }

  /** Opens the connection with the first frame, and keeps a request that holds under way. @param {string} first */
  async #receive(first) {
    const hold = { ms: MAX_HOLD_MS };
    let frames = [first];
    for (let number = 1; ; number++) {
      const answer = await this.#exchange({ conn: this.#conn, number, frames }, hold);
      if (number === 1) {
        frames = [];
        this.#conn = String(answer.conn ?? '');
        if (this.#conn) void this.#until(this.#transmit());
        else if (!answer.close) throw new AntipodeError('unavailable', 'the gateway opened a poll without a name');
      }
      for (const frame of answer.frames ?? []) {
        if (frame.welcome?.maxFrameBytes) this.#most = frame.welcome.maxFrameBytes;
        if (this.readyState === OPEN) this.onmessage?.({ data: frame });
      }
      if (answer.close) this.#end({ code: answer.close });
      if (this.readyState > OPEN) return;
    }
  }

  /** Sends what waits, with one request under way. */
  async #transmit() {
    if (this.#sending || !this.#conn) return;
    this.#sending = true;
    try {
      await undefined; // what is written in one go travels together
      while (this.#waiting.length > 0) {
        let count = 0;
        for (let sum = 0; count < Math.min(BATCH, this.#waiting.length); count++) {
          sum += size(this.#waiting[count]);
          if (count > 0 && sum > Math.min(this.#most, this.wish)) break;
        }
        const answer = await this.#exchange({ conn: this.#conn, number: ++this.#sent, frames: this.#waiting.splice(0, count) });
        if (answer.close) return this.#end({ code: answer.close }); // what it says is told to the request that holds, unless that is gone as well
      }
    } finally {
      this.#sending = false;
      if (this.readyState > OPEN) this.#over.abort();
    }
  }

  /**
   * Makes a request and returns its answer, trying again for a while.
   * @param {Question} question @param {{ms: number}} [hold]  of one that holds; halved when that is cut
   */
  async #exchange({ conn, number, frames }, hold) {
    let since = 0; // of the first failure
    for (let attempt = 0; ; attempt++) {
      this.#over.signal.throwIfAborted();
      const request = new AbortController();
      if (hold) this.#held = request;
      const late = AbortSignal.timeout(this.patienceMs + (hold?.ms ?? 0));
      const body = `{"conn":${JSON.stringify(conn)},"number":${number},"holdMs":${hold?.ms ?? 0},"frames":[${frames.join()}]}`;
      try {
        return await this.post(body, AbortSignal.any([this.#over.signal, request.signal, late]));
      } catch (error) {
        this.#over.signal.throwIfAborted();
        if (hold && this.readyState > OPEN) throw error;
        if (request.signal.aborted) {
          since = attempt = 0;
          continue; // poked
        }
        const said = error instanceof AntipodeError && error.remote ? error : undefined;
        if (!conn || (said && said.action !== 'back_off')) throw error; // at the beginning there is nothing that a second request could name
        if (hold && !said) hold.ms = Math.max(MIN_HOLD_MS, hold.ms / 2);
        since ||= performance.now();
        if (performance.now() - since > this.patienceMs) throw error;
        const wait = Math.max(said?.retryAfterMs ?? 0, Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** Math.min(attempt, 5)));
        await pause(wait * (0.5 + 0.5 * Math.random()), this.#over.signal);
      }
    }
  }

  /** Ends with what ends a part of it. @param {Promise<void>} part */
  async #until(part) {
    try {
      await part;
    } catch (error) {
      this.#end({ error: error instanceof AntipodeError ? error : new AntipodeError('unavailable', String(error)) });
    }
  }

  /** @param {{code?: number, error?: AntipodeError}} why */
  #end({ code = 1006, error }) {
    if (this.readyState > OPEN) return;
    this.readyState = OPEN + 2;
    this.#over.abort();
    this.onclose?.({ code, reason: '', error });
  }
}

/**
 * Posts polls to a gateway.
 * @param {import('./dial.js').Gateway} gateway
 * @returns {Post}
 */
export const pollTo = (gateway) => async (body, signal) => {
  const response = await fetch(`${gateway.pullUrl.replace(/\/$/, '')}/v1/poll`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body,
    signal,
    cache: 'no-store',
  });
  if (!response.ok) throw await refusal(response, `gateway ${gateway.key}`);
  return response.json();
};
