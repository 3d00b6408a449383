// @ts-check
// What happened: what changed from one state to the next, in words.

import { byID, h } from '../dom.js';
import { time } from './words.js';

/** @typedef {import('../dev.js').State} State */

const KEPT = 60;

export class Events {
  /** @type {Map<string, string> | undefined} */
  #last;

  /** @param {State} state */
  draw(state) {
    /** @type {Map<string, string>} */
    const now = new Map();
    for (const region of state.regions) now.set(`Region ${region.name}`, region.state);
    for (const gateway of state.gateways) now.set(`Gateway ${gateway.region}/${gateway.id}`, gateway.state);
    for (const link of state.links) now.set(`Link ${link.from} → ${link.to}`, link.state);
    const last = this.#last;
    this.#last = now;
    if (!last) return;
    for (const [what, is] of now) if (last.has(what) && last.get(what) !== is) this.#say(state.now_ms, what, is);
  }

  /** @param {number} ms @param {string} what @param {string} is */
  #say(ms, what, is) {
    const good = is === 'up' || is === 'open';
    const list = byID('events');
    list.prepend(h('li', {}, h('time', {}, time(ms)), h('span', {}, `${what} `, h('b', { class: good ? 'good' : 'bad' }, is))));
    while (list.childElementCount > KEPT) list.lastElementChild?.remove();
  }
}
