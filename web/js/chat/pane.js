// @ts-check
// The messages of one conversation.

import { regionOf, stampMillis } from '../../sdk/antipode.js';
import { arrange, byID, h, text } from '../dom.js';
import { icon } from '../icons.js';
import { regionTag } from '../regions.js';
import { day, dayKey, happening, names, progressWords, time, typing } from './words.js';

/** @typedef {import('../../sdk/conversation.js').Conversation} Conversation */
/** @typedef {import('../../sdk/timeline.js').Entry} Entry */

/** Messages on display to begin with, and how many more each ask for earlier ones brings. */
const PAGE = 150;
/** Messages of one sender that are closer than this belong together. */
const RUN_MS = 300000;

const TICKS = /** @type {const} */ ({ sending: 'clock', failed: 'alert', accepted: 'check', delivered: 'checks', read: 'checks' });

export class Pane {
  /** @type {Conversation | undefined} */
  #conversation;
  /** @type {Map<string, {element: HTMLElement, drawn: string}>} */
  #rows = new Map();
  #limit = PAGE;
  /** @type {string[]} who types */
  #typists = [];
  /** whether the end is in view: then new messages keep it there */
  #atEnd = true;

  /** @param {{details: (entry: Entry) => void, resend: (entry: Entry) => void}} actions */
  constructor(actions) {
    this.actions = actions;
    this.scroll = byID('scroll');
    this.list = byID('messages');
    this.scroll.addEventListener('scroll', () => {
      this.#atEnd = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 60;
      if (this.#atEnd) byID('newer').hidden = true;
    });
    byID('newer').addEventListener('click', () => this.toEnd());
    byID('earlier').addEventListener('click', () => {
      const before = this.scroll.scrollHeight;
      this.#limit += PAGE;
      this.draw();
      this.scroll.scrollTop += this.scroll.scrollHeight - before;
    });
    new ResizeObserver(() => this.#atEnd && this.toEnd()).observe(this.scroll);
  }

  /** @param {Conversation} conversation */
  show(conversation) {
    if (this.#conversation !== conversation) {
      this.#conversation = conversation;
      this.#rows.clear();
      this.list.replaceChildren();
      this.#limit = PAGE;
      this.#typists = [];
      this.#atEnd = true;
    }
    byID('nothing').hidden = true;
    byID('conversation').hidden = false;
    this.draw();
  }

  toEnd() {
    this.#atEnd = true;
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  /** @param {string[]} [typists]  who types now; as before if it is left out */
  draw(typists = this.#typists) {
    this.#typists = typists;
    const conversation = this.#conversation;
    if (!conversation) return;
    this.#head(conversation);
    const { entries } = conversation.timeline;
    const from = Math.max(0, entries.length - this.#limit);
    byID('earlier').hidden = from === 0;
    /** @type {HTMLElement[]} */
    const elements = [];
    let lastDay = 0;
    for (let i = from; i < entries.length; i++) {
      const entry = entries[i];
      const at = entry.place ? stampMillis(entry.place.stamp) : Date.now();
      if (dayKey(at) !== lastDay) {
        lastDay = dayKey(at);
        elements.push(this.#row(`day ${lastDay}`, day(at), () => h('li', { class: 'day' }, day(at))));
      }
      if (entry.kind === 'message') elements.push(this.#message(conversation, entries, i, at));
      else {
        const words = happening(entry, conversation.uid);
        elements.push(this.#row(entry.id, words, () => h('li', { class: 'line' }, words)));
      }
    }
    const grew = elements.length > this.list.childElementCount;
    arrange(this.list, elements);
    if (this.#atEnd) this.toEnd();
    else if (grew && entries.at(-1)?.sender !== conversation.uid) byID('newer').hidden = false;
  }

  /** @param {Conversation} conversation */
  #head(conversation) {
    const { title, members, isGroup, id } = conversation;
    text(byID('title'), title);
    const origin = isGroup ? id.split(':')[1] : '';
    const about = isGroup ? `Created in ${origin}${members.length ? ` · ${names(members)}` : ''}` : 'Direct chat';
    text(byID('subtitle'), this.#typists.length ? typing(this.#typists) : about);
    const button = byID('members');
    button.hidden = !isGroup;
    if (isGroup && button.dataset.count !== String(members.length)) {
      button.dataset.count = String(members.length);
      button.replaceChildren(icon('people'), members.length ? `${members.length} member${members.length === 1 ? '' : 's'}` : 'Members');
    }
    const out = !conversation.member;
    for (const name of ['text', 'send']) /** @type {HTMLTextAreaElement | HTMLButtonElement} */ (byID(name)).disabled = out;
    /** @type {HTMLTextAreaElement} */ (byID('text')).placeholder = out ? 'You are no longer a member' : 'Write a message';
  }

  /**
   * The element of a row, made anew only if what it shows has changed.
   * @param {string} key @param {string} drawn @param {() => HTMLElement} make
   */
  #row(key, drawn, make) {
    const row = this.#rows.get(key);
    if (row?.drawn === drawn) return row.element;
    const element = make();
    if (row?.element.contains(document.activeElement)) setTimeout(() => element.querySelector('button')?.focus());
    this.#rows.set(key, { element, drawn });
    return element;
  }

  /** @param {Conversation} conversation @param {Entry[]} entries @param {number} i @param {number} at */
  #message(conversation, entries, i, at) {
    const entry = entries[i];
    const mine = entry.sender === conversation.uid;
    const first = !together(entries[i - 1], entry);
    const last = !together(entry, entries[i + 1]);
    const progress = mine ? conversation.progress(entry) : undefined;
    const said = progress ? progressWords(progress) : '';
    const drawn = JSON.stringify([entry.state, entry.place?.stamp.toString(), entry.place?.origin, entry.late, entry.global, entry.failure, first, last, said]);
    const known = this.#rows.has(entry.id);
    return this.#row(entry.id, drawn, () => {
      const origin = entry.place ? regionOf(entry.place.origin) : '';
      const meta = h('button', { type: 'button', class: 'meta', title: 'Details', onclick: () => this.actions.details(entry) },
        entry.late && h('span', { class: 'late', title: 'Arrived late from another region; this is its place' }, icon('late'), 'late'),
        origin && regionTag(origin, `accepted in ${origin}`),
        h('time', { datetime: new Date(at).toISOString() }, time(at)),
        entry.global !== undefined && held(entry.global),
        progress && h('span', { class: 'tick', dataset: { tick: progress.tick }, title: said }, icon(TICKS[progress.tick]), h('span', { class: 'hush' }, said)),
      );
      return h('li', { class: `message${mine ? ' mine' : ''}${first ? ' first' : ''}${last ? ' last' : ''}`, dataset: { id: entry.clientId, late: entry.late ? '1' : '' } },
        first && !mine && conversation.isGroup && h('span', { class: 'sender' }, entry.sender),
        h('div', { class: `bubble${entry.state === 'failed' ? ' failed' : ''}${entry.late && !known ? ' fresh-late' : ''}` },
          first && h('span', { class: 'hush' }, `${mine ? 'You' : entry.sender} said: `),
          h('div', { class: 'text' }, entry.text),
          meta,
        ),
        entry.state === 'failed' && h('div', { class: 'failure' }, `Not sent: ${entry.failure ?? 'refused'}`,
          h('button', { type: 'button', class: 'small', onclick: () => this.actions.resend(entry) }, 'Send again')),
      );
    });
  }
}

/** What became of a global ack. @param {boolean} yes */
function held(yes) {
  const words = yes ? 'A second region holds it' : 'Accepted in one region only: no other answered in time';
  return h('span', { class: yes ? 'held yes' : 'held no', title: words, dataset: { global: String(yes) } }, icon(yes ? 'shield' : 'alert'), h('span', { class: 'hush' }, words));
}

/** @param {Entry | undefined} a @param {Entry | undefined} b */
function together(a, b) {
  if (!a || !b || a.kind !== 'message' || b.kind !== 'message' || a.sender !== b.sender) return false;
  if (!a.place || !b.place) return true;
  const x = stampMillis(a.place.stamp);
  const y = stampMillis(b.place.stamp);
  return dayKey(x) === dayKey(y) && y - x < RUN_MS;
}
