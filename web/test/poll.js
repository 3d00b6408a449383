// @ts-check
// Tests of the long poll: when it is used, and how it carries frames.

import { Client } from '../sdk/antipode.js';
import { Carrier } from '../sdk/carrier.js';
import { AntipodeError } from '../sdk/codes.js';
import { PollSocket } from '../sdk/poll.js';
import { MemoryShelf } from '../sdk/store.js';
import { equal, fetching, record, socketing, until } from './rig.js';

const LASTING = 15000;

/** A carrier and its clock. */
function carried() {
  let now = 1000;
  const carrier = new Carrier(now);
  return {
    polls: () => carrier.polls(now, LASTING, 0),
    /** @param {number} ms */
    pass: (ms) => (now += ms),
    /** @param {boolean} polled @param {number} lasted @param {boolean} cut */
    lives(polled, lasted, cut) {
      carrier.opened(polled);
      now += lasted;
      carrier.ended({ polled, lasted, cut }, now, LASTING, 0);
    },
    tried(random = 0) {
      now = carrier.due;
      carrier.tried(now, LASTING, random);
    },
    due: () => carrier.due - now,
    carrier,
  };
}

/**
 * A poll whose requests are answered by hand.
 * @param {number} [patienceMs]
 */
function polled(patienceMs = 60000) {
  /** @type {{conn: string, number: number, holdMs: number, frames: object[], answer: (answer: object) => void, fails: (error: Error) => void, signal: AbortSignal}[]} */
  const requests = [];
  const socket = new PollSocket(
    (body, signal) =>
      new Promise((answer, fails) => {
        signal.addEventListener('abort', () => fails(signal.reason));
        requests.push({ ...JSON.parse(body), answer, fails, signal });
      }),
    patienceMs,
  );
  /** @type {object[]} */
  const heard = [];
  /** @type {{code: number, error?: AntipodeError}[]} */
  const ends = [];
  socket.onmessage = ({ data }) => heard.push(data);
  socket.onclose = (end) => ends.push(end);
  /** @param {number} count */
  const asked = async (count) => {
    await until(() => requests.length >= count, `request ${count}`);
    return requests[count - 1];
  };
  const open = async () => {
    socket.send('{"hello":{}}');
    (await asked(1)).answer({ conn: 'c', frames: [{ welcome: {} }] });
    return asked(2);
  };
  return { socket, requests, heard, ends, asked, open };
}

const CUT = new TypeError('Failed to fetch');

/** @type {Record<string, () => void | Promise<void>>} */
export const pollTests = {
  'carrier: three cuts in a row lead to a long poll'() {
    const c = carried();
    c.lives(false, 2000, true);
    c.lives(false, 2000, true);
    equal(c.polls(), false);
    c.lives(false, 60000, true); // it lasted: the row begins anew
    c.lives(false, 2000, true);
    c.lives(false, 2000, false); // closed by the gateway, not cut
    c.lives(false, 2000, true);
    equal(c.polls(), false);
    c.lives(false, 2000, true);
    equal([c.polls(), c.due()], [true, 2 * LASTING]);
    c.lives(true, 2000, true);
    equal(c.polls(), true, 'it stays what to use when it is lost:');
  },

  'carrier: a long time without leads to a long poll, and where there is none, to both by turns'() {
    const c = carried();
    c.pass(LASTING - 1);
    equal(c.polls(), false);
    c.carrier.failed();
    c.pass(1);
    equal(c.polls(), true);
    c.carrier.failed();
    equal(c.polls(), false);
    c.carrier.failed();
    equal(c.polls(), true);
    c.carrier.failed();
    c.carrier.opened(false);
    c.pass(3600000);
    equal(c.polls(), false, 'a WebSocket that is there for long is none that is missing:');
  },

  'carrier: a WebSocket is tried from the long poll, more and more seldom, until one lasts'() {
    const c = carried();
    for (let n = 0; n < 3; n++) c.lives(false, 2000, true);
    c.carrier.opened(true);
    for (const seconds of [60, 120, 240, 480, 600, 600]) {
      c.tried();
      equal(c.due(), seconds * 1000);
    }
    c.tried(0.999);
    equal(Math.round(c.due() / 1000), 480, 'at most a fifth is random:');
    c.lives(false, 2000, true); // cut before it lasted
    equal([c.polls(), c.due()], [true, 600000]);
    c.carrier.opened(true);
    c.lives(false, LASTING, true); // it lasted: all is as in the beginning
    equal(c.polls(), false);
    c.lives(false, 2000, true);
    equal(c.polls(), false);
  },

  async 'poll: the first request opens it, and one that holds is always under way'() {
    const { socket, heard, open, asked } = polled();
    const held = await open();
    const { conn, number, holdMs, frames } = held;
    equal({ conn, number, holdMs, frames }, { conn: 'c', number: 2, holdMs: 25000, frames: [] });
    held.answer({ conn: 'c', frames: [{ push: { number: '1' } }, { push: { number: '2' } }] });
    equal((await asked(3)).number, 3);
    equal(heard, [{ welcome: {} }, { push: { number: '1' } }, { push: { number: '2' } }]);
    socket.close();
  },

  async 'poll: frames leave in order, one request at a time, what is written in one go together'() {
    const { socket, requests, open, asked } = polled();
    await open();
    socket.send('{"call":{"id":1}}');
    socket.send('{"call":{"id":2}}');
    const first = await asked(3);
    equal([first.number, first.holdMs, first.frames], [1, 0, [{ call: { id: 1 } }, { call: { id: 2 } }]]);
    socket.send('{"call":{"id":3}}');
    await new Promise((next) => setTimeout(next));
    equal(requests.length, 3, 'one is under way:');
    first.answer({});
    const second = await asked(4);
    equal([second.number, second.frames], [2, [{ call: { id: 3 } }]]);
    second.answer({});
    socket.close();
  },

  async 'poll: a request without an answer is sent again under its number, and holds for half as long'() {
    const { socket, ends, open, asked } = polled();
    (await open()).fails(CUT);
    const again = await asked(3);
    equal([again.number, again.holdMs], [2, 12500]);
    again.fails(new AntipodeError('overloaded', '', { remote: true }));
    const third = await asked(4);
    equal([third.number, third.holdMs], [2, 12500], 'a gateway that says no is no cut:');
    socket.poke();
    const poked = await asked(5);
    equal([poked.number, poked.holdMs, third.signal.aborted], [2, 12500, true]);
    poked.answer({ conn: 'c', close: 4005 });
    await until(() => ends.length === 1, 'the end');
    equal([ends[0].code, socket.readyState > 1], [4005, true]);
  },

  async 'poll: it is lost when no request is answered for long, or one is refused for good'() {
    const lost = polled(1);
    (await lost.open()).fails(CUT);
    (await lost.asked(3)).fails(CUT);
    await until(() => lost.ends.length === 1, 'patience ends');
    equal([lost.ends[0].code, lost.ends[0].error?.code, lost.ends[0].error?.remote], [1006, 'unavailable', false]);

    const refused = polled();
    refused.socket.send('{"hello":{}}');
    (await refused.asked(1)).fails(new AntipodeError('overloaded', '', { remote: true, retryAfterMs: 5000 }));
    await until(() => refused.ends.length === 1, 'nothing is repeated at the beginning');
    equal([refused.ends[0].error?.code, refused.ends[0].error?.retryAfterMs], ['overloaded', 5000]);
  },

  async 'poll: a bye leaves before it is closed'() {
    const { socket, ends, open, asked } = polled();
    const held = await open();
    socket.send('{"bye":{}}');
    socket.close();
    const bye = await asked(3);
    equal([bye.frames, held.signal.aborted, bye.signal.aborted], [[{ bye: {} }], true, false]);
    bye.answer({});
    await new Promise((next) => setTimeout(next));
    equal([ends.length, bye.signal.aborted], [0, true]);
  },

  async 'client: after three cuts in a row it goes on by long poll, with its session'() {
    let sockets = 0;
    /** @type {object[]} */
    const frames = [];
    const gateway = { id: 'g', region: 'eu', url: 'ws://g/v1/ws', pull_url: 'http://g' };
    const policy = { backoff_base_ms: 1, backoff_cap_ms: 2, poll_fallback_ms: 3600000 };
    const push = { push: { number: '1', service: 'im', method: 'event', body: { record: record('eu', 1, 10) } } };
    const welcome = { welcome: { uid: 'ann', session: 's', resumeSecret: 'x', resumed: true, region: 'eu', origin: 'eu', serverTimeMs: String(Date.now()) } };
    await socketing(
      ({ send, close }, frame) => {
        if (!frame.hello) return;
        send(welcome);
        sockets++;
        close();
      },
      () => true,
      () =>
        fetching(
          (url, _, question) => {
            if (url.pathname === '/v1/endpoints') return { body: { gateways: [gateway], policy, ttl_ms: 60000 } };
            equal(url.href, 'http://g/v1/poll');
            frames.push(...question.frames);
            if (question.number === 1 && question.holdMs > 0) return { body: { conn: 'c', frames: [welcome, push] } };
            return question.holdMs > 0 ? new Promise(() => {}) : { body: {} };
          },
          async () => {
            const client = new Client({ uid: 'ann', ipconf: ['http://ipconf'], token: async () => ({ token: 't', expiresMs: Date.now() + 60000 }), shelf: new MemoryShelf() });
            client.start();
            await until(() => client.state.carrier === 'long poll', 'a long poll');
            equal(client.sync.conversation('d:ann:bob').timeline.entries.length, 1, 'messages that came with the welcome:');
            equal([sockets, client.state.phase, /** @type {any} */ (frames[0]).hello.resume.session], [3, 'online', 's']);
            client.stop();
            await until(() => frames.some((frame) => 'bye' in frame), 'a bye');
          },
        ),
    );
  },

  async 'client: one that is stopped while a token is asked for says no hello'() {
    const gateway = { id: 'g', region: 'eu', url: 'ws://g/v1/ws', pull_url: 'http://g' };
    /** @type {object[]} */
    const frames = [];
    let asked = 0;
    let answer = () => {};
    /** each expires at once: the second is asked for with an open socket @returns {Promise<{token: string, expiresMs: number}>} */
    const token = () => new Promise((resolve) => {
      answer = () => resolve({ token: 't', expiresMs: 0 });
      if (++asked === 1) answer();
    });
    await socketing(
      (_, frame) => frames.push(frame),
      () => true,
      () =>
        fetching(
          () => ({ body: { gateways: [gateway], policy: {}, ttl_ms: 60000 } }),
          async () => {
            const client = new Client({ uid: 'ann', ipconf: ['http://ipconf'], token, shelf: new MemoryShelf() });
            client.start();
            await until(() => asked === 2, 'a token for an open socket');
            client.stop();
            answer();
            for (let n = 0; n < 5; n++) await new Promise((next) => setTimeout(next));
            equal([frames, client.state.phase], [[], 'stopped']);
          },
        ),
    );
  },
};
