// @ts-check
// What the tests share: comparing, waiting, and the network by script.

/** @param {unknown} got @param {unknown} want @param {string} [what] */
export function equal(got, want, what = '') {
  /** @param {unknown} v */
  const show = (v) => JSON.stringify(v, (_, x) => (typeof x === 'bigint' ? `${x}n` : x instanceof Map ? [...x] : x));
  if (show(got) !== show(want)) throw new Error(`${what} got ${show(got)}, want ${show(want)}`);
}

/** @param {() => unknown} run @param {string} what */
export function throws(run, what) {
  try {
    run();
  } catch {
    return;
  }
  throw new Error(`${what} was taken`);
}

/**
 * @param {string} origin @param {number} seq @param {number} stamp @param {Partial<import('../sdk/timeline.js').WireRecord>} [more]
 * @returns {import('../sdk/timeline.js').WireRecord}
 */
export function record(origin, seq, stamp, more = {}) {
  return { conversation: 'd:ann:bob', kind: 'message', sender: 'bob', clientId: `${origin}${seq}`, stamp: String(stamp), origin, seq: String(seq), text: { text: `${origin}${seq}` }, ...more };
}

/** @param {() => boolean} done @param {string} what */
export async function until(done, what) {
  for (let n = 0; !done(); n++) {
    if (n > 2000) throw new Error(`not in time: ${what}`);
    await new Promise((next) => setTimeout(next, 5));
  }
}

/** @typedef {{status?: number, body?: unknown, headers?: Record<string, string>}} Answer */

/**
 * Runs fn while fetch answers by script: asked records what was asked.
 * @param {(url: URL, headers: Headers, body: any) => Answer | Promise<Answer>} answer
 * @param {(asked: URL[]) => Promise<void>} fn
 */
export async function fetching(answer, fn) {
  const real = globalThis.fetch;
  /** @type {URL[]} */
  const asked = [];
  globalThis.fetch = async (input, init) => {
    const url = new URL(String(input));
    asked.push(url);
    /** @type {Promise<never>} */
    const aborted = new Promise((_, reject) => init?.signal?.addEventListener('abort', () => reject(init?.signal?.reason)));
    const question = init?.body ? JSON.parse(String(init.body)) : undefined;
    const { status = 200, body, headers = {} } = await Promise.race([answer(url, new Headers(init?.headers), question), aborted]);
    return new Response(status === 304 ? null : JSON.stringify(body ?? {}), { status, headers });
  };
  try {
    await fn(asked);
  } finally {
    globalThis.fetch = real;
  }
}

/**
 * Sockets to gateways by script: a frame of the client's goes to the script, which answers with frames or closes.
 * @param {(socket: {socket: object, url: string, send: (frame: object) => void, close: () => void}, frame: any) => void} script
 * @param {(url: string) => boolean} reachable
 * @param {() => Promise<void>} fn
 */
export async function socketing(script, reachable, fn) {
  const real = globalThis.WebSocket;
  class Scripted {
    static OPEN = 1;
    readyState = 0;
    /** @type {((event: any) => void) | null} */
    onopen = null;
    /** @type {((event: any) => void) | null} */
    onmessage = null;
    /** @type {((event: any) => void) | null} */
    onclose = null;
    /** @param {string} url */
    constructor(url) {
      this.url = url;
      setTimeout(() => (reachable(url) ? ((this.readyState = 1), this.onopen?.({})) : this.close()));
    }
    /** @param {string} text */
    send(text) {
      const answers = { socket: this, url: this.url, send: (/** @type {object} */ frame) => this.onmessage?.({ data: JSON.stringify(frame) }), close: () => this.close() };
      setTimeout(() => script(answers, JSON.parse(text)));
    }
    close() {
      if (this.readyState === 3) return;
      this.readyState = 3;
      setTimeout(() => this.onclose?.({ code: 1006, reason: '' }));
    }
  }
  globalThis.WebSocket = /** @type {any} */ (Scripted);
  try {
    await fn();
  } finally {
    globalThis.WebSocket = real;
  }
}
