// @ts-check
// Cursors: how far somebody is in one conversation, per origin the highest contiguous seq. Pure functions over values.
// The text form is normative (docs/protocol.md): origin=seq pairs sorted by origin, joined by commas, without zeros.

/** @typedef {Map<string, bigint>} Cursor  origin → highest contiguous seq; a missing origin means 0 */

const ORIGIN = /^[a-z0-9-]{1,32}(\.([2-9]|[1-9][0-9]+))?$/;
const NUMBER = /^[1-9][0-9]{0,18}$/;
const MAX_SEQ = (1n << 63n) - 1n;

/**
 * Reads the text form.
 * @param {string | undefined} text  undefined is what JSON gives for the empty cursor
 * @returns {Cursor}
 * @throws {SyntaxError} when the text is not in the normative form
 */
export function parseCursor(text) {
  /** @type {Cursor} */
  const cursor = new Map();
  if (!text) return cursor;
  let last = '';
  for (const part of text.split(',')) {
    const at = part.indexOf('=');
    const origin = part.slice(0, at);
    const number = part.slice(at + 1);
    if (at < 0 || !ORIGIN.test(origin)) throw new SyntaxError(`cursor part "${part}": want origin=seq`);
    if (origin <= last) throw new SyntaxError(`cursor: origin "${origin}" must come after "${last}"`);
    if (!NUMBER.test(number) || BigInt(number) > MAX_SEQ) {
      throw new SyntaxError(`cursor part "${part}": seq must be a number from 1`);
    }
    cursor.set(origin, BigInt(number));
    last = origin;
  }
  return cursor;
}

/**
 * The normative text form: equal cursors have equal texts.
 * @param {Cursor} cursor
 */
export function formatCursor(cursor) {
  return [...cursor]
    .filter(([, seq]) => seq > 0n)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([origin, seq]) => `${origin}=${seq}`)
    .join(',');
}

/**
 * Tells whether the record (origin, seq) is within the cursor.
 * @param {Cursor} cursor @param {string} origin @param {bigint} seq
 */
export function covers(cursor, origin, seq) {
  return seq <= (cursor.get(origin) ?? 0n);
}

/**
 * Tells whether a covers everything that b covers.
 * @param {Cursor} a @param {Cursor} b
 */
export function coversAll(a, b) {
  for (const [origin, seq] of b) if (!covers(a, origin, seq)) return false;
  return true;
}

/**
 * The cursor that covers what either covers. It commutes, associates and is idempotent; neither argument changes.
 * @param {Cursor} a @param {Cursor} b
 * @returns {Cursor}
 */
export function mergeCursors(a, b) {
  const merged = new Map(a);
  for (const [origin, seq] of b) if (!covers(merged, origin, seq)) merged.set(origin, seq);
  return merged;
}
