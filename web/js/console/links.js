// @ts-check
// The table of links: what each does, and the orders to cut, delay and heal it.

import { dev } from '../dev.js';
import { arrange, byID, h, text } from '../dom.js';
import { icon } from '../icons.js';
import { hue, regionTag } from '../regions.js';
import { order } from './orders.js';
import { spark } from './spark.js';
import { grave, lag, whole } from './words.js';

/** @typedef {import('../dev.js').LinkState} LinkState */
/** @typedef {{row: HTMLTableRowElement, state: HTMLElement, lag: HTMLElement, records: HTMLElement, cell: HTMLElement, chart: ReturnType<typeof spark>, delay: HTMLInputElement, button: HTMLButtonElement, link: LinkState}} Row */

const BADGES = { open: 'good', cut: 'bad', connecting: 'warn' };

export class Links {
  /** @type {Map<string, Row>} */
  #rows = new Map();

  constructor() {
    this.body = /** @type {HTMLElement} */ (byID('links').querySelector('tbody'));
  }

  /** @param {LinkState[]} links @param {string} chosen @param {boolean} tick  a second has passed: the charts move on */
  draw(links, chosen, tick) {
    arrange(this.body, links.map((link) => {
      const key = `${link.from}/${link.to}`;
      let row = this.#rows.get(key);
      if (!row) this.#rows.set(key, (row = this.#make(link)));
      row.link = link;
      row.row.classList.toggle('chosen', chosen === key);
      text(row.state, link.state);
      row.state.className = `badge ${BADGES[link.state]}`;
      row.state.title = link.last_error ?? '';
      text(row.lag, lag(link.lag_seconds));
      text(row.records, link.lag_records ? `${whole(link.lag_records)} behind` : link.lag_seconds >= 1 ? 'not heard' : 'nothing behind');
      row.cell.className = `number lag ${grave(link.lag_seconds)}`;
      if (tick) row.chart.push(link.lag_seconds);
      if (document.activeElement !== row.delay) row.delay.value = String(link.delay_ms);
      const cut = link.state === 'cut';
      if (row.button.dataset.order !== (cut ? 'heal' : 'cut')) {
        row.button.dataset.order = cut ? 'heal' : 'cut';
        row.button.className = cut ? 'small' : 'small danger';
        row.button.replaceChildren(icon(cut ? 'heal' : 'cut'), cut ? 'Heal' : 'Cut');
        row.button.setAttribute('aria-label', `${cut ? 'Heal' : 'Cut'} the link from ${link.from} to ${link.to}`);
      }
      return row.row;
    }));
  }

  /** Shows a link's row and puts the focus on its order. @param {string} key */
  focus(key) {
    const row = this.#rows.get(key);
    row?.row.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
    row?.button.focus({ preventScroll: true });
  }

  /** @param {LinkState} link @returns {Row} */
  #make(link) {
    const { from, to } = link;
    const state = h('span', { class: 'badge' });
    const seconds = h('span');
    const records = h('span', { class: 'sub' });
    const cell = h('td', { class: 'number lag' }, seconds, records);
    const chart = spark(`Lag of the last minute from ${from} to ${to}`, 1);
    const delay = h('input', { type: 'number', min: 0, max: 10000, step: 10, 'aria-label': `One-way delay from ${from} to ${to} in milliseconds` });
    const send = () => {
      const ms = Math.round(Number(delay.value));
      if (!delay.value || !(ms >= 0 && ms <= 10000)) {
        delay.value = String(row.link.delay_ms);
        return;
      }
      if (ms !== row.link.delay_ms) void order(() => dev.delay(from, to, ms), `Delay ${from} → ${to} set to ${ms} ms`);
    };
    delay.addEventListener('change', send);
    delay.addEventListener('keydown', (event) => event.key === 'Escape' && (delay.value = String(row.link.delay_ms)));
    const button = h('button', { type: 'button', onclick: () => {
      const heal = row.link.state === 'cut';
      void order(() => (heal ? dev.heal(from, to) : dev.cut(from, to)), `Link ${from} → ${to} ${heal ? 'healed' : 'cut'}`, button);
    } });
    const tr = h('tr', { dataset: { link: `${from}/${to}`, hue: hue(from) } },
      h('td', {}, regionTag(from), h('span', { class: 'arrow', 'aria-hidden': 'true' }, '→'), h('span', { class: 'hush' }, 'to'), regionTag(to)),
      h('td', {}, state),
      cell,
      h('td', { class: 'spark-cell' }, chart.element),
      h('td', {}, h('span', { class: 'delay' }, delay, 'ms')),
      h('td', {}, button),
    );
    /** @type {Row} */
    const row = { row: tr, state, lag: seconds, records, cell, chart, delay, button, link };
    return row;
  }
}
