// @ts-check
// Ids that a client makes: UUIDv7 client_ids on the server's clock, conversation ids, W3C trace contexts.

const UID = /^[A-Za-z0-9._@-]{1,64}$/;

/** @param {Uint8Array} bytes */
const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');

/**
 * A version 7 UUID for the given Unix milliseconds.
 * @param {number} ms
 */
export function uuidv7(ms) {
  const random = crypto.getRandomValues(new Uint8Array(10));
  random[0] = (random[0] & 0x0f) | 0x70;
  random[2] = (random[2] & 0x3f) | 0x80;
  const h = Math.floor(ms).toString(16).padStart(12, '0') + hex(random);
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20)}`;
}

/**
 * The Unix milliseconds inside a version 7 UUID.
 * @param {string} uuid
 */
export function uuidMillis(uuid) {
  return parseInt(uuid.replaceAll('-', '').slice(0, 12), 16);
}

/** @param {string} uid */
export function isUID(uid) {
  return UID.test(uid);
}

/**
 * The conversation of two users, in either order.
 * @param {string} a @param {string} b
 */
export function direct(a, b) {
  return b < a ? `d:${b}:${a}` : `d:${a}:${b}`;
}

/**
 * A new group's id: it names the origin that is asked to create it.
 * @param {string} origin @param {number} ms
 */
export function group(origin, ms) {
  return `g:${origin}:${uuidv7(ms)}`;
}

/**
 * The two members that a direct conversation names; nothing for other kinds.
 * @param {string} conversation
 * @returns {string[]}
 */
export function directMembers(conversation) {
  const [kind, a, b] = conversation.split(':');
  return kind === 'd' ? [a, b] : [];
}

/** A W3C traceparent that asks for sampling. */
export function traceparent() {
  return `00-${hex(crypto.getRandomValues(new Uint8Array(16)))}-${hex(crypto.getRandomValues(new Uint8Array(8)))}-01`;
}

/**
 * The trace id inside a traceparent, or ''.
 * @param {string | undefined} parent
 */
export function traceID(parent) {
  return parent ? (parent.split('-')[1] ?? '') : '';
}
