// @ts-check
// A socket that is the one bidirectional stream of a WebTransport session (docs/protocol.md, WebTransport).

import { AntipodeError } from './codes.js';
import { pause } from './emitter.js';
import { framed, Unframer } from './framing.js';
import { OPEN, SUBPROTOCOL } from './socket.js';

/** @typedef {import('./socket.js').Socket} Socket */

/** How long the other side has to end a session after a bye, or to say why it ended one. */
const END_MS = 1000;
/** How long WebTransport is left out after it failed, was cut early, or was no faster than a WebSocket that began later: most networks that let no UDP through never do. */
const AGAIN_MS = 600000;

/** Whether the browser has WebTransport that names subprotocols: without, a gateway would speak protobuf. */
export const canStream = () => typeof WebTransport === 'function' && 'protocol' in WebTransport.prototype;

/** Remembers whether this network bears WebTransport. */
export class Streams {
  #leftOut = -Infinity;

  /** @param {string[]} [certificates]  of gateways that no authority vouches for, SHA-256 in base64 */
  constructor(certificates = []) {
    this.certificates = certificates;
  }

  /**
   * Whether to try a gateway by WebTransport: policy and gateway offer it, the browser has it, and nothing says that it fails.
   * @param {import('./dial.js').Gateway} gateway @param {import('./policy.js').Policy} policy @param {number} [now]
   */
  may(gateway, policy, now = performance.now()) {
    return policy.webTransport && gateway.streamUrl !== '' && canStream() && now - this.#leftOut >= AGAIN_MS;
  }

  /**
   * A connection is gone. Tells whether it was by WebTransport and cut before it had lasted for as long as one must: then this network
   * does not bear it, and it is left out as one that failed.
   * @param {Socket} carries @param {{lasted: number, cut: boolean}} what @param {number} fallback  the policy's pollFallback
   * @param {number} [now]
   */
  ended(carries, { lasted, cut }, fallback, now = performance.now()) {
    if (!(carries instanceof StreamSocket) || !cut || lasted >= fallback) return false;
    this.failed(now);
    return true;
  }

  /** @param {number} [now] */
  failed(now = performance.now()) {
    this.#leftOut = now;
  }

  /** Another network may bear it. */
  moved() {
    this.#leftOut = -Infinity;
  }
}

/**
 * Opens a session and its stream.
 * @param {import('./dial.js').Gateway} gateway @param {AbortSignal} signal  gives it up
 * @param {string[]} [certificates]
 */
export async function openStream(gateway, signal, certificates = []) {
  signal.throwIfAborted();
  /** @type {any} */
  const transport = new WebTransport(gateway.streamUrl, /** @type {any} */ ({ protocols: [SUBPROTOCOL], ...(certificates.length > 0 && { serverCertificateHashes: certificates.map(hashOf) }) }));
  const leave = () => transport.close();
  signal.addEventListener('abort', leave);
  transport.closed.catch(() => {}); // ready says it too
  try {
    await transport.ready;
    if (transport.protocol !== SUBPROTOCOL) throw new Error(`it does not speak ${SUBPROTOCOL}`);
    return new StreamSocket(transport, await transport.createBidirectionalStream());
  } catch (error) {
    leave();
    throw new AntipodeError('unavailable', `gateway ${gateway.key} by WebTransport: ${error}`);
  } finally {
    signal.removeEventListener('abort', leave);
  }
}

/** @param {string} base64 */
const hashOf = (base64) => ({ algorithm: 'sha-256', value: Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)) });

/** @implements {Socket} */
export class StreamSocket {
  readyState = OPEN;
  /** @type {((event: {data: string}) => void) | null} */
  onmessage = null;
  /** @type {((event: {code: number, reason: string}) => void) | null} */
  onclose = null;
  /** @type {WritableStreamDefaultWriter<Uint8Array>} */
  #writer;

  /** @param {WebTransport} transport @param {{readable: ReadableStream<Uint8Array>, writable: WritableStream<Uint8Array>}} stream */
  constructor(transport, stream) {
    this.transport = transport;
    this.#writer = stream.writable.getWriter();
    this.#writer.closed.catch(() => {}); // the reader hears of it
    void this.#read(stream.readable.getReader());
  }

  /** @param {string} frame */
  send(frame) {
    this.#writer.write(framed(frame)).catch(() => {}); // the reader hears of it
  }

  /** What was written still leaves: a bye is answered by the end. */
  close() {
    if (this.readyState > OPEN) return;
    this.readyState = OPEN + 1;
    this.#writer.close().catch(() => {}); // it may be broken
    void Promise.race([this.transport.closed, pause(END_MS)])
      .catch(() => {})
      .then(() => this.transport.close());
  }

  /** @param {ReadableStreamDefaultReader<Uint8Array>} reader */
  async #read(reader) {
    const unframer = new Unframer();
    /** @type {{code: number, reason: string} | undefined} */
    let end;
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        for (const data of unframer.take(value)) if (this.readyState === OPEN) this.onmessage?.({ data });
      }
      end = unframer.end();
    } catch {
      // The session was closed before that could be said on the stream, the network has cut it, or a frame is too large.
    }
    end ??= await this.#closed();
    this.transport.close();
    if (this.readyState > OPEN) return;
    this.readyState = OPEN + 2;
    this.onclose?.(end);
  }

  /** How the session was closed, as far as it was. */
  async #closed() {
    /** @type {any} */
    const info = await Promise.race([this.transport.closed, pause(END_MS)]).catch(() => undefined);
    return { code: info?.closeCode || 1006, reason: String(info?.reason ?? '') };
  }
}
