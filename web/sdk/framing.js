// @ts-check
// Frames on a stream (docs/protocol.md, WebTransport): each behind its length, 4 bytes, most significant first. A length of 0 is the end:
// the close code in 2 bytes and its name come behind it.

const LENGTH = 4;
const MAX_FRAME = 16 << 20;
/** Of a close: code and name. */
const MAX_CLOSE = 125;

/** @param {string} frame */
export function framed(frame) {
  const text = new TextEncoder().encode(frame);
  const out = new Uint8Array(LENGTH + text.length);
  new DataView(out.buffer).setUint32(0, text.length);
  out.set(text, LENGTH);
  return out;
}

/** Takes a stream apart, in whatever parts it comes. */
export class Unframer {
  /** @type {Uint8Array[]} */
  #parts = [];
  #size = 0;
  /** of the frame that comes; -1: its length has not come yet */
  #length = -1;

  /**
   * @param {Uint8Array} part
   * @returns {string[]} the frames that are complete with it
   */
  take(part) {
    this.#parts.push(part);
    this.#size += part.length;
    /** @type {string[]} */
    const frames = [];
    while (this.#length !== 0) {
      if (this.#length < 0) {
        if (this.#size < LENGTH) break;
        const head = this.#cut(LENGTH);
        this.#length = new DataView(head.buffer, head.byteOffset).getUint32(0);
        if (this.#length > MAX_FRAME) throw new Error(`a frame of ${this.#length} bytes`);
      } else {
        if (this.#size < this.#length) break;
        frames.push(new TextDecoder().decode(this.#cut(this.#length)));
        this.#length = -1;
      }
    }
    return frames;
  }

  /** How the stream was ended, once it is; undefined: without a word. @returns {{code: number, reason: string} | undefined} */
  end() {
    if (this.#length !== 0 || this.#size < 2) return undefined;
    const end = this.#cut(Math.min(this.#size, MAX_CLOSE));
    return { code: new DataView(end.buffer, end.byteOffset).getUint16(0), reason: new TextDecoder().decode(end.subarray(2)) };
  }

  /** Takes so many bytes of those that are held. @param {number} count */
  #cut(count) {
    let held = this.#parts[0];
    if (this.#parts.length > 1 && held.length < count) {
      held = new Uint8Array(this.#size);
      let at = 0;
      for (const part of this.#parts) {
        held.set(part, at);
        at += part.length;
      }
      this.#parts = [held];
    }
    this.#parts[0] = held.subarray(count);
    if (this.#parts[0].length === 0 && this.#parts.length > 1) this.#parts.shift();
    this.#size -= count;
    return held.subarray(0, count);
  }
}
