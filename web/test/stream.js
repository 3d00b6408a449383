// @ts-check
// Tests of WebTransport: frames on a stream, and when it is tried.

import { Connection } from '../sdk/connection.js';
import { gatewayOf, race } from '../sdk/dial.js';
import { framed, Unframer } from '../sdk/framing.js';
import { DEFAULT_POLICY, readPolicy } from '../sdk/policy.js';
import { Streams, StreamSocket } from '../sdk/stream.js';
import { equal, socketing, throws, until } from './rig.js';

const GATEWAY = gatewayOf({ id: 'g', region: 'eu', url: 'ws://g/v1/ws', webtransport_url: 'https://g/v1/ws' });
const POLICY = { ...DEFAULT_POLICY, webTransport: true, raceStagger: 20 };

/** @param {number} code @param {string} name */
const closing = (code, name) => new Uint8Array([0, 0, 0, 0, code >> 8, code & 255, ...new TextEncoder().encode(name)]);

/** @param {Uint8Array[]} parts */
const joined = (...parts) => new Uint8Array(parts.flatMap((part) => [...part]));

/** A session by hand: what is sent on its stream, and what comes. */
class Session {
  protocol = 'antipode.v1+json';
  ready = Promise.resolve();
  left = false;
  sent = new Unframer();
  /** @type {string[]} */
  frames = [];
  done = false;
  /** @type {(info: object) => void} */
  closes = () => {};
  closed = new Promise((resolve) => {
    this.closes = resolve;
  });
  /** @type {ReadableStreamDefaultController<Uint8Array>} */
  incoming = /** @type {any} */ (undefined);
  stream = {
    readable: new ReadableStream({ start: (controller) => void (this.incoming = controller) }),
    writable: new WritableStream({ write: (part) => void this.frames.push(...this.sent.take(part)), close: () => void (this.done = true) }),
  };
  async createBidirectionalStream() {
    return this.stream;
  }
  close() {
    this.left = true;
    this.closes({ closeCode: 0, reason: '' });
  }
}

/** A socket over a session, and what it hears. */
function streamed() {
  const session = new Session();
  const socket = new StreamSocket(/** @type {any} */ (session), session.stream);
  /** @type {string[]} */
  const heard = [];
  /** @type {{code: number, reason: string}[]} */
  const ends = [];
  socket.onmessage = ({ data }) => heard.push(data);
  socket.onclose = (end) => ends.push(end);
  return { session, socket, heard, ends };
}

/**
 * Runs fn in a browser whose sessions these are; each opens when its ready says so.
 * @param {(url: string) => Session} opened @param {() => Promise<void>} fn
 */
async function streaming(opened, fn) {
  const had = Object.getOwnPropertyDescriptor(globalThis, 'WebTransport');
  const fake = function (/** @type {string} */ url) {
    return opened(url);
  };
  fake.prototype = { protocol: '' };
  Object.defineProperty(globalThis, 'WebTransport', { value: fake, configurable: true, writable: true });
  try {
    await fn();
  } finally {
    if (had) Object.defineProperty(globalThis, 'WebTransport', had);
    else Reflect.deleteProperty(globalThis, 'WebTransport');
  }
}

/** @type {Record<string, () => void | Promise<void>>} */
export const streamTests = {
  'framing: frames come out whole, in whatever parts they come'() {
    const frames = ['{"ping":{}}', '{}', `{"text":"${'ü€𝄞'.repeat(400)}"}`, '{"pong":{}}'];
    const bytes = joined(...frames.map(framed), closing(4001, 'draining'));
    for (const size of [1, 2, 3, 5, 7, 64, 1000, bytes.length]) {
      const unframer = new Unframer();
      const got = [];
      for (let at = 0; at < bytes.length; at += size) got.push(...unframer.take(bytes.subarray(at, at + size)));
      equal(got, frames, `in parts of ${size}:`);
      equal(unframer.end(), { code: 4001, reason: 'draining' }, `in parts of ${size}:`);
    }
  },

  'framing: a stream that stops anywhere else was cut'() {
    const bytes = joined(framed('{"ping":{}}'), closing(1000, ''));
    for (let at = 0; at < bytes.length; at++) {
      const unframer = new Unframer();
      unframer.take(bytes.subarray(0, at));
      equal(unframer.end(), undefined, `after ${at} bytes:`);
    }
    throws(() => new Unframer().take(new Uint8Array([2, 0, 0, 0])), 'a frame of 32 MiB');
  },

  async 'stream: frames go both ways, and the end has its code'() {
    const { session, socket, heard, ends } = streamed();
    socket.send('{"hello":{}}');
    session.incoming.enqueue(joined(framed('{"welcome":{}}'), framed('{"pong":{}}')));
    await until(() => heard.length === 2 && session.frames.length === 1, 'frames');
    session.incoming.enqueue(closing(4005, 'idle'));
    session.incoming.close();
    await until(() => ends.length === 1, 'the end');
    equal([heard, session.frames, ends, session.left], [['{"welcome":{}}', '{"pong":{}}'], ['{"hello":{}}'], [{ code: 4005, reason: 'idle' }], true]);
  },

  async 'stream: the session says how it was closed when the stream did not'() {
    const said = streamed();
    said.session.closes({ closeCode: 4403, reason: 'hello_expected' });
    said.session.incoming.error(new Error('the session is closed'));
    await until(() => said.ends.length === 1, 'the end');
    equal(said.ends, [{ code: 4403, reason: 'hello_expected' }]);
    const cut = streamed();
    cut.session.closes({ closeCode: 0, reason: '' });
    cut.session.incoming.close();
    await until(() => cut.ends.length === 1, 'the cut');
    equal(cut.ends, [{ code: 1006, reason: '' }]);
  },

  async 'stream: a bye leaves before the session is closed'() {
    const { session, socket, ends } = streamed();
    socket.send('{"bye":{}}');
    socket.close();
    await until(() => session.done, 'the end of what is sent');
    equal([session.frames, session.left], [['{"bye":{}}'], false]);
    session.incoming.enqueue(closing(1000, ''));
    session.incoming.close();
    await until(() => session.left, 'the end');
    equal(ends, []);
  },

  async 'stream: what a listener throws is reported, and ends no connection'() {
    const { session, socket } = streamed();
    const connection = new Connection(socket);
    const had = globalThis.reportError;
    /** @type {unknown[]} */
    const reported = [];
    globalThis.reportError = (error) => void reported.push(error);
    /** @type {bigint[]} */
    const heard = [];
    connection.on('push', ({ number }) => {
      if (number === 1n) throw new Error('a page failed');
    });
    connection.on('push', ({ number }) => heard.push(number));
    try {
      session.incoming.enqueue(joined(...[1, 2].map((number) => framed(JSON.stringify({ push: { number: String(number) } })))));
      await until(() => heard.length === 2, 'both pushes');
    } finally {
      globalThis.reportError = had;
    }
    equal([reported.map(String), connection.ended.aborted], [['Error: a page failed'], false]);
    connection.bye();
  },

  async 'stream: WebTransport that is cut early is left out, and is no WebSocket that was cut'() {
    const { socket } = streamed();
    const webSocket = /** @type {any} */ ({});
    await streaming(
      () => new Session(),
      async () => {
        /** @param {import('../sdk/socket.js').Socket} carries @param {number} lasted @param {boolean} cut */
        const after = (carries, lasted, cut) => {
          const streams = new Streams();
          return [streams.ended(carries, { lasted, cut }, 15000), streams.may(GATEWAY, POLICY)];
        };
        equal(after(socket, 14999, true), [true, false], 'cut:');
        equal(after(socket, 15000, true), [false, true], 'cut after it lasted:');
        equal(after(socket, 10, false), [false, true], 'closed by the gateway:');
        equal(after(webSocket, 10, true), [false, true], 'a WebSocket:');
      },
    );
    socket.close();
  },

  async 'dial: WebTransport is tried where policy, gateway and browser have it'() {
    equal([readPolicy({}).webTransport, readPolicy({ webtransport: true }).webTransport], [false, true]);
    const streams = new Streams();
    const may = () => streams.may(GATEWAY, POLICY);
    await streaming(
      () => new Session(),
      async () => {
        equal([may(), streams.may({ ...GATEWAY, streamUrl: '' }, POLICY), streams.may(GATEWAY, DEFAULT_POLICY)], [true, false, false]);
        streams.failed(0);
        equal([streams.may(GATEWAY, POLICY, 599999), streams.may(GATEWAY, POLICY, 600000)], [false, true]);
        /** @type {any} */ (WebTransport).prototype = {};
        equal(new Streams().may(GATEWAY, POLICY), false, 'a browser that names no subprotocols:');
      },
    );
  },

  async 'dial: what is open first wins, and WebTransport that was slower is left out for a while'() {
    const never = new AbortController().signal;
    /** @type {Session[]} */
    const sessions = [];
    let ready = Promise.resolve();
    const opened = () => {
      const session = new Session();
      session.ready = ready;
      sessions.push(session);
      return session;
    };
    const dial = async (streams = new Streams()) => {
      const { socket } = await race([GATEWAY], POLICY, streams, never);
      return [socket instanceof StreamSocket, streams.may(GATEWAY, POLICY)];
    };
    await streaming(opened, () =>
      socketing(
        () => {},
        () => true,
        async () => {
          equal(await dial(), [true, true], 'a network that bears it:');
          ready = new Promise(() => {});
          equal(await dial(), [false, false], 'one that lets nothing through:');
          await until(() => sessions[1].left, 'it is given up');
          ready = Promise.reject(new Error('no UDP'));
          ready.catch(() => {});
          const streams = new Streams();
          equal(await dial(streams), [false, false], 'one that refuses it:');
          await dial(streams);
          equal(sessions.length, 3, 'sessions:');
        },
      ),
    );
  },
};
