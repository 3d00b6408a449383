// @ts-check
// What carries frames to a gateway and back. A WebSocket is one as it is.

/**
 * @typedef {object} Socket
 * @property {number} readyState  OPEN as long as it takes frames; above it, it is over
 * @property {(frame: string) => void} send
 * @property {(code?: number) => void} close  without a wait for the other side
 * @property {((event: any) => void) | null} onmessage  a frame, as data
 * @property {((event: any) => void) | null} onclose  the gateway or the network has ended it, with code and reason
 */

/** WebSocket.OPEN */
export const OPEN = 1;
