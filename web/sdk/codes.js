// @ts-check
// The closed list of error codes (docs/protocol.md) and what a client does about each: retry, back off or stop.

/** @typedef {'retry' | 'back_off' | 'stop'} Action */

/** @type {Record<string, {action: Action, close: number}>} */
export const CODES = {
  bad_frame: { action: 'stop', close: 4400 },
  unknown_frame: { action: 'stop', close: 0 },
  frame_too_large: { action: 'stop', close: 4413 },
  bad_token: { action: 'stop', close: 4401 },
  token_expired: { action: 'stop', close: 4402 },
  hello_expected: { action: 'stop', close: 4403 },
  unknown_service: { action: 'stop', close: 0 },
  unknown_method: { action: 'stop', close: 0 },
  bad_request: { action: 'stop', close: 0 },
  bad_conversation: { action: 'stop', close: 0 },
  bad_client_id: { action: 'stop', close: 0 },
  bad_text: { action: 'stop', close: 0 },
  text_too_long: { action: 'stop', close: 0 },
  bad_cursor: { action: 'stop', close: 0 },
  stamp_ahead: { action: 'stop', close: 0 },
  not_member: { action: 'stop', close: 0 },
  unknown_conversation: { action: 'stop', close: 0 },
  not_yet_here: { action: 'back_off', close: 0 },
  wrong_region: { action: 'stop', close: 0 },
  queue_failed: { action: 'retry', close: 0 },
  too_many_requests: { action: 'back_off', close: 4429 },
  overloaded: { action: 'back_off', close: 4503 },
  unavailable: { action: 'back_off', close: 4504 },
  unready: { action: 'back_off', close: 4505 },
  internal: { action: 'back_off', close: 4500 },
  draining: { action: 'retry', close: 4001 },
  replaced: { action: 'stop', close: 4002 },
  login_tie: { action: 'retry', close: 4003 },
  device_limit: { action: 'stop', close: 4008 },
  slow_consumer: { action: 'retry', close: 4004 },
  idle: { action: 'retry', close: 4005 },
  session_expired: { action: 'retry', close: 4006 },
  gateway_fenced: { action: 'retry', close: 4007 },
};

/** An error with a code of the list. */
export class AntipodeError extends Error {
  /**
   * @param {string} code
   * @param {string} [detail]  for people
   * @param {{action?: string, retryAfterMs?: number, remote?: boolean}} [more]  action: the peer's word for it, which outranks the table
   */
  constructor(code, detail, more = {}) {
    super(detail ? `${code}: ${detail}` : code);
    this.name = 'AntipodeError';
    this.code = code;
    this.detail = detail ?? '';
    /** @type {Action} */
    this.action = isAction(more.action) ? more.action : (CODES[code] ?? CODES.internal).action;
    this.retryAfterMs = more.retryAfterMs ?? 0;
    /** a server said so: this client did not guess it */
    this.remote = more.remote ?? false;
  }

  /**
   * The error that a frame, a reply or an HTTP answer carries.
   * @param {{code?: string, detail?: string, retryAfterMs?: number, action?: string}} wire
   */
  static of(wire) {
    return new AntipodeError(wire.code ?? 'internal', wire.detail, { ...wire, remote: true });
  }

  /**
   * The error that a WebSocket close stands for. Close codes that are not ours read as unavailable: try elsewhere.
   * @param {number} close @param {string} [reason]
   */
  static ofClose(close, reason) {
    for (const [code, spec] of Object.entries(CODES)) {
      if (spec.close === close && close !== 0) return new AntipodeError(code, reason || undefined, { remote: true });
    }
    return new AntipodeError('unavailable', reason || `the connection was lost (${close})`);
  }
}

/** @param {string | undefined} text @returns {text is Action} */
function isAction(text) {
  return text === 'retry' || text === 'back_off' || text === 'stop';
}
