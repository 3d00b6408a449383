// @ts-check
// Tests of networks: what the browser tells of them, what a client does in another one, and how it spares slow ones.

import { Client } from '../sdk/antipode.js';
import { Carrier } from '../sdk/carrier.js';
import { AntipodeError } from '../sdk/codes.js';
import { kindOf, watchNetwork } from '../sdk/network.js';
import { Pages } from '../sdk/pages.js';
import { DEFAULT_POLICY, readPolicy } from '../sdk/policy.js';
import { PollSocket } from '../sdk/poll.js';
import { MemoryShelf } from '../sdk/store.js';
import { Sync } from '../sdk/sync.js';
import { equal, fetching, record, socketing, until } from './rig.js';

const LASTING = 15000;
const GATEWAYS = ['g1', 'g2'].map((id) => ({ id, region: 'eu', url: `ws://${id}/v1/ws`, pull_url: `http://${id}` }));

/**
 * Ann's client, in a network by script. Gateways welcome her, and answer pings unless they are silent.
 * @param {(world: {client: Client, asked: URL[], hellos: any[], silent: Set<number>, cut: () => void}) => Promise<void>} fn
 * @param {{policy?: object, answer?: (url: URL, headers: Headers) => import('./rig.js').Answer | undefined, reachable?: () => boolean, options?: object}} [network]
 */
async function inNetwork(fn, { policy = {}, answer = () => undefined, reachable = () => true, options = {} } = {}) {
  /** @type {any[]} */
  const hellos = [];
  /** @type {Set<number>} sockets, in the order of their hellos */
  const silent = new Set();
  /** @type {Map<object, number>} */
  const numbers = new Map();
  let cut = () => {};
  const list = { gateways: GATEWAYS, policy: { backoff_base_ms: 1, backoff_cap_ms: 2, ...policy }, ttl_ms: 60000 };
  await socketing(
    ({ socket, url, send, close }, frame) => {
      if (frame.hello) {
        numbers.set(socket, hellos.push({ ...frame.hello, url }));
        cut = close;
        send({ welcome: { uid: 'ann', session: 's', resumeSecret: 'x', resumed: frame.hello.resume !== undefined, region: 'eu', origin: 'eu', serverTimeMs: String(Date.now()) } });
      } else if (!silent.has(numbers.get(socket) ?? 0)) {
        if (frame.ping) setTimeout(() => send({ pong: {} }), 2); // longer than the least time that browsers tell
        if (frame.call) send({ reply: { id: frame.call.id, body: {} } });
      }
    },
    reachable,
    () =>
      fetching(
        (url, headers) => answer(url, headers) ?? { body: list, headers: { ETag: 'W/"7"' } },
        async (asked) => {
          const client = new Client({ uid: 'ann', ipconf: ['http://ipconf'], token: async () => ({ token: 't', expiresMs: Date.now() + 60000 }), shelf: new MemoryShelf(), ...options });
          client.start();
          try {
            await fn({ client, asked, hellos, silent, cut: () => cut() });
          } finally {
            client.stop();
          }
        },
      ),
  );
}

/** @type {Record<string, () => void | Promise<void>>} */
export const networkTests = {
  'network: its kind is what ipconf has words for, and slow is slow by whatever it comes'() {
    for (const [type, effectiveType, kind] of [
      ['wifi', '4g', 'wifi'], ['ethernet', '4g', 'ethernet'], ['cellular', '4g', '4g'], ['cellular', '', 'cell'], ['cellular', '3g', '3g'],
      ['wifi', '3g', '3g'], ['wifi', '2g', '2g'], ['cellular', 'slow-2g', 'slow'], ['', '3g', '3g'], ['', '4g', ''], ['none', '', ''], ['unknown', '', ''],
    ]) {
      equal(kindOf({ type, effectiveType }), kind, `${type} ${effectiveType}`);
    }
    equal(kindOf(), '', 'a browser that does not tell:');
  },

  'network: the browser tells of another one, not of every estimate'() {
    const information = Object.assign(new EventTarget(), { type: 'wifi', effectiveType: '4g' });
    const page = new EventTarget();
    const ended = new AbortController();
    /** @type {string[]} */
    const told = [];
    equal(watchNetwork({ kind: (kind) => told.push(kind), changed: () => told.push('changed') }, ended.signal, { information, page }), 'wifi');
    /** @param {object} now */
    const becomes = (now) => {
      told.length = 0;
      Object.assign(information, now).dispatchEvent(new Event('change'));
      return told;
    };
    equal(becomes({}), [], 'an estimate:');
    equal(becomes({ type: 'cellular', effectiveType: '3g' }), ['3g', 'changed']);
    equal(becomes({ type: 'wifi' }), ['changed'], 'one of the same kind:');
    equal(becomes({ type: 'none' }), [], 'none:');
    page.dispatchEvent(new Event('online'));
    equal(told, ['changed'], 'one again:');
    ended.abort();
    equal(becomes({ type: 'cellular' }), [], 'it has ended:');
    equal(watchNetwork({ kind() {}, changed() {} }, ended.signal, {}), '', 'a browser that tells nothing:');
  },

  'carrier: another network may bear WebSockets'() {
    for (const up of [true, false]) {
      const carrier = new Carrier(0);
      for (let n = 0; n < 3; n++) {
        carrier.opened(false);
        carrier.ended({ polled: false, lasted: 1, cut: true }, 10, LASTING, 0);
      }
      equal(carrier.polls(10, LASTING, 0), true);
      if (up) carrier.opened(true);
      carrier.moved(50);
      equal(carrier.due, 50, 'a WebSocket is due:');
      equal(carrier.polls(60, LASTING, 0), up, 'a long poll that works goes on until then:');
    }
  },

  async 'client: in another network it asks anew, by the kind and without what it measured in the old one'() {
    /** @type {(string | null)[]} */
    const tags = [];
    const answer = (/** @type {URL} */ url, /** @type {Headers} */ headers) => {
      if (url.pathname === '/v1/endpoints') tags.push(headers.get('If-None-Match'));
      return undefined;
    };
    await inNetwork(async ({ client, asked, hellos, silent, cut }) => {
      await until(() => client.state.rttMs > 0, 'a round trip is measured');
      silent.add(1); // else it is measured anew
      client.setNetwork('3g');
      client.setNetwork('3g');
      cut();
      await until(() => hellos.length === 2, 'another connection');
      const [before, after] = asked.filter((url) => url.pathname === '/v1/endpoints').map((url) => url.searchParams);
      equal([before.get('network'), after.get('network'), after.get('rtt'), after.get('last')], [null, '3g', null, 'eu/g1']);
      equal(tags, [null, null]);
      equal(hellos[1].resume.session, 's', 'its session comes along:');
    }, { answer });
  },

  async 'client: it asks by where its user wants to be and is at home'() {
    await inNetwork(async ({ client, asked }) => {
      await until(() => client.state.phase === 'online', 'it is connected');
      equal([asked[0].searchParams.get('region'), asked[0].searchParams.get('home')], ['us', 'eu']);
    }, { options: { region: 'us', home: 'eu' } });
  },

  async 'client: another network cuts a wait short, unless a server said how long it is'() {
    let up = false;
    await inNetwork(async ({ client, hellos }) => {
      await until(() => client.state.phase === 'waiting', 'a wait');
      up = true;
      client.networkChanged();
      await until(() => hellos.length === 1, 'a connection');
    }, { policy: { backoff_base_ms: 60000, backoff_cap_ms: 60000, backoff_jitter: 0.001 }, reachable: () => up });

    const overloaded = { status: 503, body: { code: 'overloaded', retryAfterMs: 60000 } };
    await inNetwork(async ({ client, asked }) => {
      await until(() => client.state.phase === 'waiting', 'a wait');
      const due = client.state.retryAtMs;
      client.networkChanged();
      for (let n = 0; n < 5; n++) await new Promise((next) => setTimeout(next));
      equal([client.state.phase, client.state.retryAtMs, asked.length], ['waiting', due, 1]);
    }, { answer: () => overloaded });
  },

  async 'client: a connection that comes along to another network stays'() {
    await inNetwork(async ({ client, hellos }) => {
      await until(() => client.state.rttMs > 0, 'it is connected');
      const before = client.state;
      client.networkChanged();
      await until(() => client.state !== before && client.state.rttMs > 0, 'it answers');
      equal(hellos.length, 1);
    }, { policy: { connect_timeout_ms: 60000 } });
  },

  async 'client: a connection that falls silent in another network is replaced, with its session'() {
    await inNetwork(async ({ client, hellos, silent }) => {
      await until(() => client.state.rttMs > 0, 'it is connected');
      silent.add(1);
      client.networkChanged();
      await until(() => hellos.length > 1, 'another one');
      equal(hellos[1].resume.session, 's');
      await until(() => client.state.phase === 'online' && client.state.rttMs > 0, 'it serves');
    }, { policy: { connect_timeout_ms: 2500 } });
  },

  async 'client: what is dialled in the old network is given up'() {
    let answers = false;
    await inNetwork(async ({ client, asked, hellos }) => {
      await until(() => asked.length === 1, 'an ask');
      answers = true;
      client.networkChanged();
      await until(() => hellos.length === 1, 'a connection');
      equal(asked.length >= 2, true, 'it asked again:');
    }, { answer: (url) => (answers || url.pathname !== '/v1/endpoints' ? undefined : /** @type {any} */ (new Promise(() => {}))) });
  },

  'policy: a wish for small frames is taken within bounds, and none is none'() {
    for (const [wish, frame] of [[undefined, 0], [0, 0], [1400, 1400], [1, 512], [1e9, 1 << 20], ['x', 512], [-5, 512]]) {
      equal(readPolicy({ max_frame_bytes: wish }).maxFrame, frame, String(wish));
    }
  },

  'pages: as many as are likely to fit, by what they took lately'() {
    const pages = new Pages(200);
    equal([pages.limit(0), pages.limit(1400), pages.limit(512), pages.limit(1 << 20)], [200, 3, 1, 200]);
    pages.came(2, { records: ['x'.repeat(184)] }, 1400); // 100 bytes each
    equal(pages.limit(1400), 14);
    pages.came(1, { records: ['x'.repeat(4984)] }, 1400);
    equal(pages.limit(1400), 1, 'one at least:');
    pages.came(0, { records: [] }, 1400);
    equal(pages.limit(1400), 1, 'an empty page says nothing:');
  },

  async 'sync: pages are small where the policy wishes for small frames'() {
    /** @type {[string, number][]} */
    const asked = [];
    const ended = new AbortController();
    const deps = {
      uid: 'ann', policy: () => ({ ...DEFAULT_POLICY, maxFrame: 1400 }), region: () => 'eu', online: () => true, changed() {},
      /** @param {string} method @param {string} _ @param {any} body */
      async call(method, _, body) {
        asked.push([method, body.limit]);
        if (method === 'list') return { rows: [{ conversation: 'd:ann:bob', head: 'eu=1', member: true }], cursor: '' };
        return method === 'pull' ? { records: [record('eu', 1, 10)], cursor: 'eu=1' } : {};
      },
      pullFrom: () => Promise.reject(new AntipodeError('unavailable')),
    };
    const sync = new Sync(deps, ended.signal);
    await sync.refresh();
    await until(() => sync.conversation('d:ann:bob').timeline.entries.length === 1, 'a pull');
    equal(asked.slice(0, 2), [['list', 3], ['pull', 3]]);
    ended.abort();
  },

  async 'poll: one request holds no more than the policy wishes for, unless one frame does'() {
    /** @type {object[][]} */
    const sent = [];
    const socket = new PollSocket(
      async (body, signal) => {
        const { holdMs, number, frames } = JSON.parse(body);
        if (holdMs === 0) sent.push(frames);
        else if (number > 1) await new Promise((_, over) => signal.addEventListener('abort', () => over(signal.reason)));
        return { conn: 'c', frames: [] };
      },
      60000,
      600,
    );
    socket.send('{"hello":{}}');
    const call = (/** @type {number} */ id, /** @type {number} */ bytes) => socket.send(JSON.stringify({ call: { id, x: 'x'.repeat(bytes) } }));
    for (const [id, bytes] of [[1, 50], [2, 50], [3, 900], [4, 50]]) call(id, bytes);
    await until(() => sent.flat().length === 4, 'all are sent');
    equal(sent.map((frames) => frames.map((/** @type {any} */ frame) => frame.call.id)), [[1, 2], [3], [4]]);
    socket.close();
  },
};
