// @ts-check
// What carries frames to a gateway and back. A WebSocket is one as it is.

/**
 * @typedef {object} Socket
 * @property {number} readyState  OPEN as long as it takes frames; above it, it is over
 * @property {(frame: string) => void} send
 * @property {(code?: number) => void} close  without a wait for the other side
 * @property {((event: any) => void) | null} onmessage  data: a frame, as text or as the object that it stands for
 * @property {((event: any) => void) | null} onclose  the gateway or the network has ended it: with code and reason, or with an error that says more
 * @property {() => void} [poke]  makes sure that it lives. One that has this needs no pings: it knows by itself
 */

export const SUBPROTOCOL = 'antipode.v1+json';

/** WebSocket.OPEN */
export const OPEN = 1;

/** At most how long a frame is in UTF-8. @param {string} frame */
export const size = (frame) => (frame.length * 3 < 1024 ? frame.length * 3 : new TextEncoder().encode(frame).length);
