// @ts-check
// Tests of gaps pulled from several regions at once, and of calls that are taken back.

import { AntipodeError } from '../sdk/codes.js';
import { Connection } from '../sdk/connection.js';
import { Conversation } from '../sdk/conversation.js';
import { covers, formatCursor, parseCursor } from '../sdk/cursor.js';
import { Gaps } from '../sdk/gaps.js';
import { DEFAULT_POLICY } from '../sdk/policy.js';
import { equal, record, until } from './rig.js';

/**
 * Ann in eu, and what is asked of the regions: asks are answered by hand.
 * @param {number} width
 */
function rig(width) {
  const conversation = new Conversation('d:ann:bob', 'ann');
  const stop = new AbortController();
  let ended = 0;
  /** @type {{region: string, upto: string, signal: AbortSignal, has: (cursor: string) => void, fails: () => void}[]} */
  const asks = [];
  const gaps = new Gaps(
    {
      policy: () => ({ ...DEFAULT_POLICY, raceWidth: width, backoffBase: 1, backoffCap: 2 }),
      region: () => 'eu',
      pull: (region, _, upto, signal) =>
        new Promise((resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason));
          asks.push({ region, upto, signal, has: (cursor) => resolve({ cursor }), fails: () => reject(new AntipodeError('unavailable')) });
        }),
      take: (_, page) => {
        conversation.timeline.cover(parseCursor(page.cursor));
        return false;
      },
      ended: () => ended++,
    },
    stop.signal,
  );
  /** @param {string} origin @param {number} seq */
  const hear = (origin, seq) => {
    conversation.add(record(origin, seq, seq));
    gaps.fill(conversation);
  };
  const asked = () => asks.map(({ region }) => region).join(' ');
  return { conversation, asks, asked, hear, ended: () => ended, stop: () => stop.abort() };
}

/** A socket by hand. */
class Wire {
  readyState = 1;
  /** @type {any[]} */
  sent = [];
  /** @type {((event: {data: string}) => void) | null} */
  onmessage = null;
  /** @type {((event: {code: number, reason: string}) => void) | null} */
  onclose = null;
  /** @param {string} text */
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.readyState = 3;
  }
  /** @param {object} frame */
  hears(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
}

/** @param {Promise<unknown>} promise */
const outcome = (promise) => promise.then(() => 'answered', (error) => (error instanceof AntipodeError ? error.code : error.name));

/** @type {Record<string, () => void | Promise<void>>} */
export const gapsTests = {
  async 'gaps: the own region and the origin are asked at once, the first that fills them wins'() {
    const { conversation, asks, asked, hear, ended, stop } = rig(3);
    hear('us', 3);
    await until(() => asks.length === 2, 'both are asked');
    equal([asked(), asks[0].upto, asks[1].upto], ['eu us', 'us=3', 'us=3']);
    asks[1].has('us=2');
    await until(() => ended() === 1, 'it is filled');
    equal([formatCursor(conversation.timeline.cursor), asks[0].signal.aborted], ['us=3', true]);
    stop();
  },

  async 'gaps: an answer that does not fill them wins nothing'() {
    const { asks, asked, hear, ended, stop } = rig(3);
    hear('us', 3);
    await until(() => asks.length === 2, 'both are asked');
    asks[0].has('us=1');
    asks[1].fails();
    await until(() => asks.length === 4, 'both are asked again, a little later');
    equal([asked(), ended()], ['eu us eu us', 0]);
    asks[2].has('us=2');
    await until(() => ended() === 1, 'it is filled');
    equal(asks[3].signal.aborted, true);
    stop();
  },

  async 'gaps: no more regions are asked at once than the policy lets race'() {
    const { asks, asked, hear, ended, stop } = rig(2);
    hear('ap', 2);
    hear('us', 2);
    await until(() => asks.length === 2, 'two are asked');
    equal(asked(), 'eu ap');
    asks[0].fails();
    await until(() => asks.length === 3, 'the next one is asked');
    equal(asked(), 'eu ap us');
    asks[1].has('ap=1');
    asks[2].has('us=1');
    await until(() => ended() === 1, 'both are filled');
    stop();
  },

  async 'gaps: the origin of a further one is asked while others do not answer'() {
    const { conversation, asks, asked, hear, ended, stop } = rig(3);
    hear('us', 2);
    await until(() => asks.length === 2, 'both are asked');
    hear('ap', 2);
    await until(() => asks.length === 3, 'the origin of the further one is asked');
    equal([asked(), asks[2].upto], ['eu us ap', 'ap=2,us=2']);
    asks[2].has('ap=1,us=1');
    await until(() => ended() === 1, 'both are filled');
    equal([covers(conversation.timeline.cursor, 'us', 2n), asks[0].signal.aborted, asks[1].signal.aborted], [true, true, true]);
    stop();
  },

  async 'gaps: a further one that shows while it gives up is asked for'() {
    const { asks, hear, ended, stop } = rig(3);
    hear('us', 3);
    for (let last = 2; last <= 16; last += 2) {
      await until(() => asks.length === last, 'both are asked');
      if (last === 16) hear('ap', 2);
      asks[last - 2].fails();
      asks[last - 1].fails();
    }
    await until(() => asks.length === 19, 'all three are asked');
    equal(asks.slice(16).map(({ region }) => region).sort(), ['ap', 'eu', 'us']);
    asks[16].has('ap=1,us=2');
    await until(() => ended() === 1, 'both are filled');
    stop();
  },

  async 'connection: a call that is taken back is cancelled at the gateway, and its answer ignored'() {
    const wire = new Wire();
    const connection = new Connection(wire);
    const back = new AbortController();
    const taken = connection.call('pull', 'd:ann:bob', {}, { timeoutMs: 60000, signal: back.signal });
    const kept = connection.call('list', '', {}, { timeoutMs: 60000, signal: back.signal });
    wire.hears({ reply: { id: 2, body: {} } });
    await kept;
    back.abort();
    equal(await outcome(taken), 'AbortError');
    equal(wire.sent.map((frame) => frame.call?.method ?? frame), ['pull', 'list', { cancel: { id: 1 } }]);
    wire.hears({ reply: { id: 1, body: {} } });
    wire.hears({ error: { code: 'unknown_frame' } }); // of a gateway that does not know cancel
    equal(await outcome(connection.call('pull', 'd:ann:bob', {}, { timeoutMs: 60000, signal: back.signal })), 'AbortError');
    equal(wire.sent.length, 3, 'what is taken back beforehand is not sent:');
    connection.leave(new AntipodeError('unavailable'));
  },

  async 'connection: a call without an answer is cancelled too'() {
    const wire = new Wire();
    const connection = new Connection(wire);
    equal(await outcome(connection.call('pull', 'd:ann:bob', {}, { timeoutMs: 1 })), 'unavailable');
    equal(wire.sent[1], { cancel: { id: 1 } });
    connection.leave(new AntipodeError('unavailable'));
  },
};
