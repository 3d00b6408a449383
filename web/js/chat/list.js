// @ts-check
// The conversation list.

import { stampMillis } from '../../sdk/antipode.js';
import { arrange, byID, h } from '../dom.js';
import { avatar } from './people.js';
import { snippet, when } from './words.js';

/** @typedef {import('../../sdk/conversation.js').Conversation} Conversation */

export class List {
  /** @type {Map<string, {item: HTMLElement, drawn: string}>} */
  #rows = new Map();

  /** @param {(id: string) => void} open */
  constructor(open) {
    this.open = open;
    this.element = byID('list');
    this.element.addEventListener('keydown', (event) => this.#key(event));
  }

  /** @param {Conversation[]} conversations @param {string} current */
  draw(conversations, current) {
    const shown = conversations.filter((c) => c.id === current || c.timeline.entries.length > 0 || c.unread > 0 || (c.isGroup && c.member));
    arrange(this.element, shown.map((conversation) => this.#row(conversation, conversation.id === current)));
    byID('list-empty').hidden = shown.length > 0;
  }

  /** @param {Conversation} conversation @param {boolean} current */
  #row(conversation, current) {
    const { id, title, unread, last, isGroup } = conversation;
    let row = this.#rows.get(id);
    if (!row) this.#rows.set(id, (row = { item: h('li'), drawn: '' }));
    const time = last?.place ? when(stampMillis(last.place.stamp)) : '';
    const words = last ? snippet(last, conversation) : '';
    const drawn = JSON.stringify([title, unread, time, words, current]);
    if (row.drawn === drawn) return row.item;
    row.drawn = drawn;
    const focused = row.item.contains(document.activeElement);
    const button = h('button', { type: 'button', class: unread ? 'has-unread' : '', 'aria-current': current ? 'true' : 'false', dataset: { conversation: id }, onclick: () => this.open(id) },
      avatar(title, { group: isGroup }),
      h('span', { class: 'name' }, title),
      h('span', { class: 'when' }, time),
      h('span', { class: 'snippet' }, words || '\u00a0'),
      unread > 0 && h('span', { class: 'unread' }, unread >= 100 ? '99+' : unread, h('span', { class: 'hush' }, ' unread')),
    );
    row.item.replaceChildren(button);
    if (focused) button.focus();
    return row.item;
  }

  /** Arrow keys walk through the list. @param {KeyboardEvent} event */
  #key(event) {
    const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (step === 0) return;
    const buttons = [...this.element.querySelectorAll('button')];
    const at = buttons.findIndex((button) => button === document.activeElement);
    buttons[at + step]?.focus();
    event.preventDefault();
  }
}
