// @ts-check
// Tests of the pure modules. They run in a page (run.js, started by test/browser) and in node (node --test web/test).

import { Client } from '../sdk/antipode.js';
import { canVerify, openCatalogue } from '../sdk/catalogue.js';
import { AntipodeError, CODES } from '../sdk/codes.js';
import { Conversation } from '../sdk/conversation.js';
import { covers, coversAll, formatCursor, mergeCursors, parseCursor } from '../sdk/cursor.js';
import { Endpoints } from '../sdk/endpoints.js';
import { direct, directMembers, group, isUID, traceID, traceparent, uuidMillis, uuidv7 } from '../sdk/ids.js';
import { Outbox } from '../sdk/outbox.js';
import { comparePlaces, formatPlace, regionOf, stampMillis } from '../sdk/place.js';
import { backOffMs, DEFAULT_POLICY, readPolicy } from '../sdk/policy.js';
import { MemoryShelf, Store } from '../sdk/store.js';
import { Sync } from '../sdk/sync.js';
import { Timeline } from '../sdk/timeline.js';
import { gapsTests } from './gaps.js';
import { networkTests } from './network.js';
import { pollTests } from './poll.js';
import { equal, fetching, record, socketing, throws, until } from './rig.js';
import { streamTests } from './stream.js';
import { typingTests } from './typing.js';

/** A small generator, so that a failure can be repeated. @param {number} seed */
function random(seed) {
  let state = seed;
  return () => {
    state = (state * 1664525 + 1013904223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

const PETS = 'g:eu:00dc6acf-ac00-7000-8000-000000000001';

/** @param {string} origin @param {number} seq @param {number} stamp @param {boolean} add */
const membership = (origin, seq, stamp, add) =>
  record(origin, seq, stamp, { conversation: PETS, kind: 'member', text: undefined, member: add ? { add: ['ann'] } : { remove: ['ann'] } });

/**
 * Ann's Sync in eu against answers by script.
 * @param {{rows: () => any[], pull: (cursor: Map<string, bigint>) => {records: any[], cursor: string}}} region
 */
function synced({ rows, pull }) {
  const ended = new AbortController();
  let pulls = 0;
  /** @param {string} method @param {string} _key @param {any} body */
  const call = async (method, _key, body) => {
    if (method === 'list') return { rows: rows(), cursor: '' };
    if (method === 'pull') return pulls++, pull(parseCursor(body.cursor));
    return {};
  };
  const deps = {
    uid: 'ann', policy: () => ({ ...DEFAULT_POLICY, backoffBase: 1, backoffCap: 2 }), region: () => 'eu', online: () => true, call,
    pullFrom: () => Promise.reject(new AntipodeError('unavailable')), changed() {},
  };
  return { sync: new Sync(deps, ended.signal), end: () => ended.abort(), pulls: () => pulls };
}

const LIST = {
  gateways: [
    { id: 'g1', region: 'eu', url: 'ws://g1/v1/ws', pull_url: 'http://g1' },
    { id: 'g2', region: 'eu', url: 'ws://g2/v1/ws', pull_url: 'http://g2' },
  ],
  ttl_ms: 60000,
  catalogue: 'v1',
};
const IPCONFS = ['http://one', 'http://two'];
const never = new AbortController().signal;

/**
 * A catalogue of these gateways, and a new key that signed it.
 * @param {object[]} gateways
 */
async function signed(gateways) {
  const pair = /** @type {CryptoKeyPair} */ (await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify']));
  const base64 = (/** @type {ArrayBuffer | Uint8Array} */ b) => btoa(String.fromCharCode(...new Uint8Array(b)));
  const content = JSON.stringify({ version: 'v1', issued_ms: Date.now(), until_ms: Date.now() + 60000, gateways, ipconfs: ['http://three'] });
  const signature = await crypto.subtle.sign('Ed25519', pair.privateKey, new TextEncoder().encode('antipode.v1 catalogue\n' + content));
  return {
    keys: { k1: base64(await crypto.subtle.exportKey('raw', pair.publicKey)) },
    catalogue: { catalogue: base64(new TextEncoder().encode(content)), key: 'k1', signature: base64(signature) },
  };
}

/** @param {Timeline} timeline */
const texts = (timeline) => timeline.entries.map((entry) => entry.text).join(' ');

/** @type {Record<string, () => void | Promise<void>>} */
export const tests = {
  async 'sync: who was removed while offline gets what was said before'() {
    const log = [membership('eu', 1, 10, true), record('eu', 2, 20, { conversation: PETS }), membership('eu', 3, 30, false)];
    const region = synced({
      rows: () => [{ conversation: PETS, head: 'eu=3', member: false }],
      pull: (cursor) => ({ records: log.filter((r) => !covers(cursor, 'eu', BigInt(r.seq ?? 0))), cursor: 'eu=3' }),
    });
    await region.sync.refresh();
    const { timeline } = region.sync.conversation(PETS);
    await until(() => timeline.entries.length === 3, 'what was said before');
    region.end();
  },

  async 'sync: what a removal hides is not asked for again'() {
    let removed = false;
    const region = synced({
      rows: () => [{ conversation: PETS, head: removed ? 'eu=1,us=1' : 'eu=10', member: !removed }],
      pull: (cursor) => {
        removed = true; // the list had promised more
        const log = [membership('eu', 1, 10, true), membership('us', 1, 15, false)];
        return { records: log.filter((r) => !covers(cursor, r.origin ?? '', 1n)), cursor: 'eu=1,us=1' };
      },
    });
    await region.sync.refresh();
    const conversation = region.sync.conversation(PETS);
    await until(() => conversation.timeline.entries.length === 2, 'the first pull');
    region.sync.takeEvent({ record: record('eu', 8, 80, { conversation: PETS }) }); // of a region that has not heard of the removal
    await region.sync.refresh();
    await region.sync.pull(PETS);
    equal(conversation.timeline.gaps(), []);
    const before = region.pulls();
    await region.sync.refresh();
    await region.sync.restart();
    equal(region.pulls(), before, 'pulls');
    region.end();
  },

  async 'sync: what is listed while a pull is under way is pulled too'() {
    let said = 1;
    let answer = () => {};
    const region = synced({
      rows: () => [{ conversation: 'd:ann:bob', head: `eu=${said}` }],
      pull: (cursor) => {
        const records = [1, 2].filter((seq) => seq <= said && !covers(cursor, 'eu', BigInt(seq))).map((seq) => record('eu', seq, seq));
        const page = { records, cursor: `eu=${said}` };
        if (said > 1) return page;
        return /** @type {any} */ (new Promise((had) => (answer = () => had(page))));
      },
    });
    await region.sync.refresh();
    await until(() => region.pulls() === 1, 'the first is asked for');
    said = 2; // its push is lost
    await region.sync.refresh();
    answer();
    const { timeline } = region.sync.conversation('d:ann:bob');
    await until(() => timeline.entries.length === 2, 'both');
    equal(region.pulls(), 2, 'pulls');
    region.end();
  },

  async 'sync: an addition before the one that was known is pulled from the beginning'() {
    let heard = false;
    const earlier = membership('ap', 1, 10, true);
    const between = record('eu', 1, 20, { conversation: PETS });
    const region = synced({
      rows: () => [{ conversation: PETS, head: 'eu=1,us=1', member: true }],
      pull: (cursor) => {
        const log = heard ? [earlier, between, membership('us', 1, 30, true)] : [membership('us', 1, 30, true)];
        return { records: log.filter((r) => !covers(cursor, r.origin ?? '', 1n)), cursor: heard ? 'ap=1,eu=1,us=1' : 'eu=1,us=1' };
      },
    });
    await region.sync.refresh();
    const { timeline } = region.sync.conversation(PETS);
    await until(() => timeline.entries.length === 1, 'the addition that was known');
    heard = true;
    region.sync.takeEvent({ record: earlier });
    await until(() => texts(timeline).includes('eu1'), 'what was said between');
    equal(timeline.entries.length, 3);
    await until(() => region.sync.conversation(PETS).again.size === 0, 'it is done');
    region.end();
  },

  async 'client: a group whose ack was lost is created once, where its id says'() {
    /** @type {string[]} */
    const ids = [];
    let moved = false;
    const gateways = () => (moved ? ['us', 'eu'] : ['eu']).map((region) => ({ id: 'g', region, url: `ws://${region}/v1/ws`, pull_url: `http://${region}` }));
    const policy = { backoff_base_ms: 1, backoff_cap_ms: 2 };
    await socketing(
      ({ url, send, close }, frame) => {
        const region = new URL(url).hostname;
        if (frame.hello) send({ welcome: { uid: 'ann', session: '1', region, origin: region, serverTimeMs: String(Date.now()) } });
        if (frame.ping) send({ pong: {} });
        if (!frame.call) return;
        if (frame.call.method !== 'submit') return send({ reply: { id: frame.call.id, body: {} } });
        ids.push(frame.call.body.conversation);
        if (region === 'us') return send({ reply: { id: frame.call.id, error: { code: 'wrong_region' } } });
        moved = true; // eu has the record, and its sockets go
        close();
      },
      (url) => !moved || !url.includes('eu'),
      () =>
        fetching(
          (url) => {
            if (url.pathname === '/v1/endpoints') return { body: { gateways: gateways(), policy, ttl_ms: 1 } };
            ids.push(url.host);
            return { body: {} };
          },
          async () => {
            const client = new Client({ uid: 'ann', ipconf: ['http://ipconf'], token: async () => ({ token: 't', expiresMs: Date.now() + 60000 }), shelf: new MemoryShelf() });
            client.on('state', ({ phase }) => phase === 'waiting' && client.wake());
            client.start();
            await until(() => client.state.phase === 'online', 'online');
            const id = await client.createGroup('pets', ['bob']).finally(() => client.stop());
            equal([...new Set(ids)].length, 2, ids.join(' '));
            equal([ids[0], ids.at(-1)], [id, 'eu']);
          },
        ),
    );
  },

  async 'endpoints: an ipconf that says when to come back is obeyed'() {
    let full = false;
    const overloaded = { status: 503, body: { code: 'overloaded', retryAfterMs: 60000 } };
    await fetching(() => (full ? overloaded : { body: LIST }), async (asked) => {
      const endpoints = new Endpoints({ ipconf: IPCONFS });
      await endpoints.get({}, false, never);
      full = true;
      for (const say of ['asked', 'not asked']) {
        const error = await endpoints.get({}, true, never).catch((e) => e);
        equal([error.code, error.retryAfterMs > 50000], ['overloaded', true], say);
      }
      equal(asked.length, 2, 'asks');
      equal(endpoints.heldBack, true);
    });
    await fetching(() => ({ status: 503, headers: { 'Retry-After': '7' }, body: 'by a proxy' }), async () => {
      const error = await new Endpoints({ ipconf: ['http://one'] }).get({}, false, never).catch((e) => e);
      equal([error.code, error.retryAfterMs], ['unavailable', 7000]);
    });
  },

  async 'endpoints: another ipconf is asked when one knows nothing, and then the old list stands'() {
    let dead = false;
    const answer = (/** @type {URL} */ { hostname }) => (dead || hostname === 'one' ? { status: 503, body: { code: 'unready' } } : { body: LIST });
    await fetching(answer, async () => {
      const endpoints = new Endpoints({ ipconf: IPCONFS });
      equal((await endpoints.get({}, false, never)).map((g) => g.key), ['eu/g1', 'eu/g2']);
      dead = true;
      equal((await endpoints.get({}, true, never)).length, 2);
    });
  },

  async 'endpoints: a list is asked for by its tag, and failures are reported once'() {
    /** @type {(string | null)[]} */
    const tags = [];
    const answer = (/** @type {URL} */ _, /** @type {Headers} */ headers) => {
      tags.push(headers.get('If-None-Match'));
      return headers.get('If-None-Match') ? { status: 304 } : { body: LIST, headers: { ETag: 'W/"7"' } };
    };
    await fetching(answer, async (asked) => {
      const endpoints = new Endpoints({ ipconf: ['http://one'] });
      const { signal } = new AbortController();
      await endpoints.get({}, false, signal);
      await endpoints.get({}, false, signal); // still fresh
      equal((await endpoints.get({}, true, signal)).length, 2);
      endpoints.failed('eu/g1');
      equal((await endpoints.get({}, true, signal)).map((g) => g.key), ['eu/g2', 'eu/g1']);
      await endpoints.get({}, true, signal);
      equal(tags, [null, 'W/"7"', null, 'W/"7"']);
      equal(asked.map((url) => url.searchParams.get('failed')), [null, null, 'eu/g1', null]);
    });
  },

  async 'endpoints: only what the signed catalogue names is used'() {
    if (!(await canVerify())) {
      const { catalogue } = { catalogue: JSON.stringify({ catalogue: '', key: 'k1', signature: '' }) };
      equal(await openCatalogue(catalogue, { k1: '' }, 0).then(() => 'taken', () => 'refused'), 'refused');
      return;
    }
    const { keys, catalogue } = await signed([LIST.gateways[1]]);
    const forged = await signed(LIST.gateways);
    let serve = catalogue;
    const kept = { list: '' };
    const answer = (/** @type {URL} */ url) => ({ body: url.pathname === '/v1/catalogue' ? serve : LIST });
    await fetching(answer, async (asked) => {
      const endpoints = new Endpoints({ ipconf: ['http://one'], catalogueKeys: keys, kept });
      equal((await endpoints.get({}, false, never)).map((g) => g.key), ['eu/g2']);
      await endpoints.get({}, true, never); // of the same version: the catalogue is not asked for again
      equal(asked.map((url) => url.pathname), ['/v1/endpoints', '/v1/catalogue', '/v1/endpoints']);
      equal(endpoints.named(['ws://g1/v1/ws', 'ws://g2/v1/ws']).map((g) => g.key), ['eu/g2']);
      serve = forged.catalogue;
      const other = new Endpoints({ ipconf: ['http://one'], catalogueKeys: keys });
      equal(await other.get({}, false, never).then(() => 'taken', () => 'refused'), 'refused', 'a forged catalogue');
    });
    await fetching(() => ({ status: 500 }), async (asked) => {
      const later = new Endpoints({ ipconf: ['http://one'], catalogueKeys: keys, kept });
      equal((await later.get({}, false, never)).map((g) => g.key), ['eu/g2'], 'the kept list');
      equal(asked.map((url) => url.hostname), ['one', 'three'], 'ipconfs of the catalogue');
      const stranger = new Endpoints({ ipconf: ['http://one'], catalogueKeys: forged.keys, kept });
      equal(await stranger.get({}, false, never).then(() => 'taken', () => 'refused'), 'refused', 'a kept list of others');
    });
  },

  'cursor: the text form is normative'() {
    for (const text of ['', 'eu=1', 'ap=7,eu=12,us=3', 'eu=1,eu.2=5', 'eu=9223372036854775807']) equal(formatCursor(parseCursor(text)), text);
    for (const bad of ['eu', 'eu=', 'eu=0', 'eu=01', 'eu=-1', 'eu=+1', '=1', 'EU=1', 'us=1,eu=1', 'eu=1,eu=2', 'eu=1,', ' eu=1', 'eu.1=1', 'eu.02=1', 'eu=9223372036854775808', 'eu=1.5']) {
      throws(() => parseCursor(bad), bad);
    }
  },

  'cursor: merge is the maximum, and changes neither side'() {
    const a = parseCursor('eu=5,us=2');
    const b = parseCursor('ap=1,eu=3,us=9');
    equal(formatCursor(mergeCursors(a, b)), 'ap=1,eu=5,us=9');
    equal(formatCursor(mergeCursors(b, a)), 'ap=1,eu=5,us=9');
    equal(formatCursor(mergeCursors(a, a)), 'eu=5,us=2');
    equal(formatCursor(a), 'eu=5,us=2');
    equal([covers(a, 'eu', 5n), covers(a, 'eu', 6n), covers(a, 'ap', 1n)], [true, false, false]);
    equal([coversAll(a, parseCursor('eu=5')), coversAll(a, b), coversAll(a, new Map())], [true, false, true]);
  },

  'place: stamps keep all 64 bits'() {
    const high = 117654332014854144n;
    const places = [
      { stamp: high + 1n, origin: 'ap', seq: 1n }, { stamp: high, origin: 'us', seq: 1n }, { stamp: high, origin: 'eu', seq: 10n }, { stamp: high, origin: 'eu', seq: 9n },
    ].sort(comparePlaces);
    equal(places.map(formatPlace), [`${high}/eu/9`, `${high}/eu/10`, `${high}/us/1`, `${high + 1n}/ap/1`]);
    equal(Number(high) === Number(high + 1n), true, 'the test means nothing unless doubles lose this:');
    equal(stampMillis((1700000000123n << 16n) + 5n), 1700000000123);
    equal([regionOf('eu'), regionOf('eu.2')], ['eu', 'eu']);
  },

  'ids: UUIDv7 carries the time, version and variant'() {
    const seen = new Set();
    for (const ms of [0, 1, 1700000000123, 2 ** 47]) {
      const id = uuidv7(ms);
      if (!/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(id)) throw new Error(id);
      equal(uuidMillis(id), ms);
      seen.add(id).add(uuidv7(ms));
    }
    equal(seen.size, 8);
  },

  'ids: conversations'() {
    equal([direct('bob', 'ann'), direct('ann', 'bob'), direct('ann', 'ann')], ['d:ann:bob', 'd:ann:bob', 'd:ann:ann']);
    equal([directMembers('d:ann:bob'), directMembers('g:eu:x')], [['ann', 'bob'], []]);
    if (!/^g:eu:[0-9a-f-]{36}$/.test(group('eu', 5))) throw new Error('group');
    equal([isUID('ann'), isUID('a@b.c_d-e'), isUID(''), isUID('a:b'), isUID('ä'), isUID('x'.repeat(65))], [true, true, false, false, false, false]);
    equal(traceID(traceparent()).length, 32);
  },

  'codes: the action is the peer\'s word, then the table\'s'() {
    equal(AntipodeError.ofClose(4002).code, 'replaced');
    equal(AntipodeError.ofClose(4002).action, 'stop');
    equal(AntipodeError.ofClose(1006).code, 'unavailable');
    equal(AntipodeError.of({ code: 'unavailable', action: 'stop' }).action, 'stop');
    equal(AntipodeError.of({ code: 'from_the_future' }).action, 'back_off');
    const closes = Object.values(CODES).map((spec) => spec.close).filter(Boolean);
    equal(new Set(closes).size, closes.length, 'close codes are distinct:');
  },

  'policy: a bad answer does no harm'() {
    equal(readPolicy(undefined), { ...DEFAULT_POLICY });
    equal(readPolicy({ race_width: -3, backoff_jitter: 'x', fallback_pull_ms: 0 }), { ...DEFAULT_POLICY });
    const policy = readPolicy({ race_width: 1000, backoff_base_ms: 100, backoff_cap_ms: 5, backoff_jitter: 7 });
    equal([policy.raceWidth, policy.backoffCap, policy.backoffJitter], [8, 100, 1]);
  },

  'policy: back-off grows to the cap and is jittered'() {
    const policy = { ...DEFAULT_POLICY, backoffBase: 100, backoffCap: 1000, backoffJitter: 0.5 };
    equal([0, 1, 2, 3, 4, 400].map((attempt) => backOffMs(policy, attempt, 0, () => 0)), [100, 200, 400, 800, 1000, 1000]);
    equal([0, 4].map((attempt) => backOffMs(policy, attempt, 0, () => 1)), [50, 500]);
    if (backOffMs(policy, 0, 3000, () => 0.5) < 3000) throw new Error('earlier than the server asked');
  },

  'store: the login number is stored before it is used, and survives'() {
    const shelf = new MemoryShelf();
    const first = new Store('ann', 0, shelf);
    equal([first.nextLogin(), first.nextLogin()], [1n, 2n]);
    const again = new Store('ann', 0, shelf);
    equal([again.device === first.device, again.nextLogin()], [true, 3n]);
    equal(new Store('ann', 1, shelf).device === first.device, false);
    shelf.setItem('antipode/ann/0/login', '');
    equal(new Store('ann', 0, shelf).device === first.device, false, 'a lost login number makes a new device:');
  },

  'timeline: order is by place, whatever the order of arrival'() {
    const records = [record('eu', 1, 10), record('us', 1, 10), record('eu', 2, 30), record('ap', 1, 20)];
    for (const order of [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]]) {
      const timeline = new Timeline('d:ann:bob');
      for (const i of order) timeline.add(records[i]);
      equal(texts(timeline), 'eu1 us1 ap1 eu2');
      equal(formatCursor(timeline.cursor), 'ap=1,eu=2,us=1');
    }
  },

  'timeline: gaps are known and close'() {
    const timeline = new Timeline('d:ann:bob');
    timeline.add(record('eu', 1, 1));
    timeline.add(record('eu', 4, 4));
    timeline.add(record('eu', 6, 6));
    timeline.add(record('us', 2, 2));
    equal(timeline.gaps(), [{ origin: 'eu', from: 2n, to: 3n }, { origin: 'eu', from: 5n, to: 5n }, { origin: 'us', from: 1n, to: 1n }]);
    equal([formatCursor(timeline.cursor), formatCursor(timeline.known())], ['eu=1', 'eu=6,us=2']);
    timeline.add(record('eu', 3, 3));
    timeline.add(record('eu', 2, 2));
    timeline.cover(parseCursor('us=1')); // hidden: a pull says so
    equal(timeline.gaps(), [{ origin: 'eu', from: 5n, to: 5n }]);
    timeline.cover(parseCursor('eu=5'));
    equal([timeline.gaps(), formatCursor(timeline.cursor)], [[], 'eu=6,us=2']);
  },

  'timeline: what is had is dropped'() {
    const timeline = new Timeline('d:ann:bob');
    equal([timeline.add(record('eu', 1, 1)), timeline.add(record('eu', 1, 1)), timeline.add(record('eu', 3, 3)), timeline.add(record('eu', 3, 3))], [true, false, true, false]);
    timeline.cover(parseCursor('eu=9'));
    equal(timeline.add(record('eu', 7, 7)), false);
    equal(texts(timeline), 'eu1 eu3');
  },

  'timeline: what the server does not know counts and is not shown'() {
    const timeline = new Timeline('d:ann:bob');
    timeline.add(record('eu', 1, 1, { kind: 'poll', text: undefined }));
    timeline.add(record('eu', 2, 2));
    equal([texts(timeline), formatCursor(timeline.cursor)], ['eu2', 'eu=2']);
  },

  'timeline: repeats show once, at the lowest place'() {
    for (const order of [[0, 1, 2], [2, 1, 0], [1, 2, 0]]) {
      const timeline = new Timeline('d:ann:bob');
      /** @type {(() => void)[]} */
      const steps = [
        () => timeline.add(record('eu', 1, 50, { clientId: 'x', text: { text: 'twice' } })),
        () => timeline.addRepeat({ sender: 'bob', clientId: 'x', stamp: '10', origin: 'us', seq: '1' }),
        () => timeline.add(record('eu', 2, 30)),
      ];
      for (const i of order) steps[i]();
      equal([texts(timeline), formatCursor(timeline.cursor)], ['twice eu2', 'eu=2,us=1']);
      equal(timeline.coveredBy(timeline.entries[0], parseCursor('us=1')), true, 'read by any of its records:');
    }
  },

  'timeline: random arrivals end in the one order'() {
    for (let seed = 1; seed <= 200; seed++) {
      const next = random(seed);
      /** @type {import('../sdk/timeline.js').WireRecord[]} */
      const all = [];
      for (const origin of ['ap', 'eu', 'us']) {
        let stamp = 100;
        for (let seq = 1; seq <= 12; seq++) {
          stamp += Math.floor(next() * 4);
          const hidden = next() < 0.15;
          const repeat = !hidden && next() < 0.2 ? all[Math.floor(next() * all.length)] : undefined;
          all.push(record(origin, seq, stamp, hidden ? { kind: 'poll', text: undefined } : repeat?.text ? { clientId: repeat.clientId, text: repeat.text } : {}));
        }
      }
      // The dumb model: the lowest place of each id, sorted.
      /** @param {import('../sdk/timeline.js').WireRecord} r */
      const place = (r) => ({ stamp: BigInt(r.stamp ?? 0), origin: r.origin ?? '', seq: BigInt(r.seq ?? 0) });
      const lowest = new Map();
      for (const r of all) {
        if (!r.text) continue;
        const had = lowest.get(r.clientId);
        if (!had || comparePlaces(place(r), place(had)) < 0) lowest.set(r.clientId, r);
      }
      const want = [...lowest.values()].sort((a, b) => comparePlaces(place(a), place(b))).map((r) => r.text.text).join(' ');

      const timeline = new Timeline('d:ann:bob');
      const arrivals = [...all, ...all.filter(() => next() < 0.3)].map((r) => ({ r, at: next() })).sort((a, b) => a.at - b.at);
      for (const { r } of arrivals) timeline.add(r);
      equal(texts(timeline), want, `seed ${seed}:`);
      equal(formatCursor(timeline.cursor), 'ap=12,eu=12,us=12', `seed ${seed}:`);
    }
  },

  'timeline: a late arrival is marked, history is not'() {
    const timeline = new Timeline('d:ann:bob');
    timeline.add(record('eu', 2, 20));
    timeline.add(record('eu', 1, 10)); // still loading
    equal(timeline.entries.map((entry) => entry.late), [false, false]);
    timeline.settled = true;
    timeline.add(record('us', 1, 15));
    timeline.add(record('us', 2, 25));
    equal(timeline.entries.map((entry) => entry.late), [false, true, false, false]);
  },

  'timeline: an own message is one entry from writing to record'() {
    const timeline = new Timeline('d:ann:bob');
    timeline.settled = true;
    const sent = { sender: 'ann', clientId: 'c', text: 'hi', trace: '' };
    timeline.addSending(sent);
    timeline.add(record('us', 1, 10));
    equal([texts(timeline), timeline.entries[1].state], ['us1 hi', 'sending']);
    timeline.accepted('ann/c', { stamp: '20', origin: 'eu', global: false }, true);
    equal([timeline.entries[1].state, timeline.entries[1].global], ['accepted', false]);
    timeline.add(record('eu', 1, 20, { sender: 'ann', clientId: 'c', text: { text: 'hi' } }));
    equal([texts(timeline), timeline.entries.length, timeline.entries[1].late], ['us1 hi', 2, false]);
    equal(formatPlace(/** @type {any} */ (timeline.entries[1].place)), '20/eu/1');
  },

  'timeline: the record may come before the ack'() {
    const timeline = new Timeline('d:ann:bob');
    timeline.addSending({ sender: 'ann', clientId: 'c', text: 'hi', trace: '' });
    timeline.add(record('eu', 1, 20, { sender: 'ann', clientId: 'c', text: { text: 'hi' } }));
    timeline.accepted('ann/c', { stamp: '20', origin: 'eu' }, false);
    timeline.failed('ann/c', 'too late to fail');
    equal([timeline.entries.length, timeline.entries[0].state, formatPlace(/** @type {any} */ (timeline.entries[0].place))], [1, 'accepted', '20/eu/1']);
  },

  'conversation: unread are visible messages of others above the read cursor'() {
    const conversation = new Conversation('d:ann:bob', 'ann');
    conversation.timeline.settled = true;
    conversation.add(record('eu', 1, 10));
    conversation.add(record('eu', 2, 20, { sender: 'ann' }));
    conversation.add(record('us', 1, 15));
    equal(conversation.unread, 2);
    conversation.takeOwn('', 'eu=2');
    equal(conversation.unread, 1);
    equal([conversation.readAll(), conversation.readAll(), conversation.unread], [true, false, 0]);
    conversation.add(record('ap', 1, 1)); // late, at the top, and still unread
    equal([conversation.unread, conversation.timeline.entries[0].late], [1, true]);
  },

  'conversation: ticks'() {
    const conversation = new Conversation('g:eu:x', 'ann');
    conversation.setMembers(['ann', 'bob', 'cho']);
    conversation.add(record('eu', 1, 10, { sender: 'ann' }));
    const tick = () => conversation.progress(conversation.timeline.entries[0]).tick;
    equal(tick(), 'accepted');
    conversation.takeReceipt({ uid: 'bob', delivered: 'eu=1' });
    equal(tick(), 'accepted');
    conversation.takeReceipt({ uid: 'cho', delivered: 'eu=1', read: 'eu=1' });
    equal(tick(), 'delivered');
    conversation.takeReceipt({ uid: 'bob', read: 'eu=1' });
    equal(tick(), 'read');
    conversation.takeReceipt({ uid: 'bob', delivered: 'us=4' }); // an older one: nothing goes back
    equal(tick(), 'read');
  },

  'conversation: an answer or a row that is older than a removal does not take it back'() {
    const conversation = new Conversation(PETS, 'ann');
    conversation.add(membership('eu', 1, 10, true));
    conversation.setMembers(['ann', 'bob'], 'eu=1');
    conversation.add(membership('us', 4, 20, false));
    equal([conversation.member, conversation.membersKnown], [false, false]);
    conversation.setMembers(['ann', 'bob'], 'eu=7'); // had eu's changes, and not us's
    conversation.setMembers(['ann', 'bob']); // of a region that does not say
    conversation.takeRow({ conversation: PETS, head: 'eu=9,us=3', member: true }, 'eu');
    equal([conversation.member, conversation.members], [false, ['ann', 'bob']]);
    conversation.setMembers(['ann', 'bob', 'cho'], 'eu=8,us=4'); // added again since, which no push told
    equal([conversation.member, conversation.membersKnown, conversation.members.length], [true, true, 3]);
    conversation.takeRow({ conversation: PETS, head: 'eu=9,us=5', member: false }, 'eu');
    equal(conversation.member, false);
  },

  async 'sync: members are asked for again where the answer is older than a push'() {
    const answers = [{ title: 'pets', members: ['ann', 'bob', 'cho'], changes: 'eu=1' }, { title: 'pets', members: ['ann', 'bob'], changes: 'eu=2' }];
    let asked = 0;
    const ended = new AbortController();
    const sync = new Sync({
      uid: 'ann', policy: () => ({ ...DEFAULT_POLICY, backoffBase: 1, backoffCap: 2 }), region: () => 'eu', online: () => true,
      call: async () => answers[Math.min(asked++, 1)], pullFrom: () => Promise.reject(new AntipodeError('unavailable')), changed() {},
    }, ended.signal);
    const conversation = sync.conversation(PETS);
    conversation.add(record('eu', 2, 20, { conversation: PETS, kind: 'member', text: undefined, member: { remove: ['cho'] } }));
    await sync.learn(conversation);
    ended.abort();
    equal([asked, conversation.members], [2, ['ann', 'bob']]);
  },

  'conversation: the title with the highest place wins'() {
    const conversation = new Conversation('g:eu:x', 'ann');
    conversation.add(record('us', 1, 30, { kind: 'settings', text: undefined, settings: { title: 'late' } }));
    conversation.add(record('eu', 1, 10, { kind: 'create', text: undefined, create: { title: 'first', members: ['bob'] } }));
    conversation.add(record('eu', 2, 20, { kind: 'settings', text: undefined, settings: { title: 'middle' } }));
    equal(conversation.title, 'late');
  },

  async 'outbox: a failure holds what is behind it, and the order stays'() {
    /** @type {string[]} */
    const log = [];
    /** @type {Map<string, {resolve: (v: any) => void, reject: (e: any) => void}>} */
    const open = new Map();
    /** @type {any[]} */
    let kept = [];
    const outbox = new Outbox({
      submit: (item) => new Promise((resolve, reject) => {
        log.push(item.text);
        open.set(item.text, { resolve, reject });
      }),
      window: () => 16,
      now: () => 1000,
      accepted: (item) => log.push(`${item.text} ok`),
      refused: (item, error) => log.push(`${item.text} ${error.code}`),
      keep: (list) => { kept = list; },
    });
    outbox.policy = { ...DEFAULT_POLICY, backoffBase: 1, backoffCap: 1 };
    const rest = () => new Promise((go) => setTimeout(go, 15));
    for (const text of ['a', 'b', 'c']) outbox.add({ conversation: 'x', clientId: uuidv7(1000), text, ack: 'region', trace: '' });
    equal(kept.length, 3);
    open.get('a')?.reject(new AntipodeError('unavailable'));
    await rest();
    equal(log, ['a', 'b', 'c'], 'nothing goes out while others are under way:');
    open.get('b')?.reject(new AntipodeError('queue_failed'));
    open.get('c')?.reject(new AntipodeError('queue_failed'));
    await rest();
    equal(log, ['a', 'b', 'c', 'a', 'b', 'c']);
    open.get('a')?.reject(new AntipodeError('bad_text'));
    open.get('b')?.reject(new AntipodeError('queue_failed'));
    open.get('c')?.reject(new AntipodeError('queue_failed'));
    await rest();
    equal(log.slice(6), ['a bad_text', 'b', 'c']);
    open.get('b')?.resolve({});
    open.get('c')?.resolve({});
    await rest();
    equal([log.slice(9), kept.length], [['b ok', 'c ok'], 0]);
    outbox.stop();
  },

  ...gapsTests,
  ...networkTests,
  ...pollTests,
  ...streamTests,
  ...typingTests,
};

/** Runs them all. @returns {Promise<{name: string, error: string}[]>} */
export async function run() {
  const results = [];
  for (const [name, test] of Object.entries(tests)) {
    let error = '';
    try {
      await test();
    } catch (thrown) {
      error = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
    }
    results.push({ name, error });
  }
  return results;
}
