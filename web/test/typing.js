// @ts-check
// Tests of who types.

import { Typing } from '../sdk/typing.js';
import { equal } from './rig.js';

/** @type {Record<string, () => void>} */
export const typingTests = {
  'typing: others are told every few seconds, and of an end once'() {
    let now = 0;
    /** @type {string[]} */
    const told = [];
    const typing = new Typing(
      {
        uid: 'ann',
        now: () => now,
        changed: () => {},
        tell: async (method, key, body) => void told.push(`${now} ${method} ${key} ${JSON.stringify(body)}`),
      },
      new AbortController().signal,
    );
    typing.tell('d', true);
    for (; now < 6500; now += 100) typing.tell('d');
    typing.tell('s:eu:1');
    typing.tell('d', true);
    typing.tell('d', true);
    typing.tell('d');
    typing.sent('d');
    typing.tell('d', true);
    equal(told, [
      '0 typing d {"conversation":"d"}',
      '3000 typing d {"conversation":"d"}',
      '6000 typing d {"conversation":"d"}',
      '6500 typing d {"conversation":"d","stopped":true}',
      '6500 typing d {"conversation":"d"}',
    ]);
  },

  'typing: others type until they stop'() {
    let changes = 0;
    const end = new AbortController();
    const typing = new Typing({ uid: 'ann', changed: () => changes++, tell: async () => {} }, end.signal);
    typing.hear({ conversation: 'd', uid: 'bob' });
    typing.hear({ conversation: 'd', uid: 'bob' });
    typing.hear({ conversation: 'd', uid: 'ann' });
    typing.hear({ conversation: 'd', uid: 'cat' });
    typing.hear({ uid: 'cat' });
    equal([typing.who('d'), typing.who('e'), changes], [['bob', 'cat'], [], 2]);
    typing.hear({ conversation: 'd', uid: 'bob', stopped: true });
    typing.hear({ conversation: 'd', uid: 'bob', stopped: true });
    typing.stop('d', 'cat');
    equal([typing.who('d'), changes], [[], 4]);
    end.abort();
  },
};
