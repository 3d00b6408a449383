// @ts-check
// A card for each region: its figures, its gateways, and the orders to kill and restart them.

import { dev } from '../dev.js';
import { arrange, byID, h, text } from '../dom.js';
import { icon } from '../icons.js';
import { hue, regionTag } from '../regions.js';
import { order } from './orders.js';
import { grave, lag, perSecond, whole } from './words.js';

/** @typedef {import('../dev.js').State} State */
/** @typedef {import('../dev.js').RegionState} RegionState */
/** @typedef {import('../dev.js').GatewayState} GatewayState */

const BADGES = { up: 'good', down: 'bad', starting: 'warn', draining: 'warn' };

export class Cards {
  /** @type {Map<string, ReturnType<typeof card>>} */
  #cards = new Map();

  /** @param {State} state */
  draw(state) {
    arrange(byID('regions'), state.regions.map((region) => {
      let made = this.#cards.get(region.name);
      if (!made) this.#cards.set(region.name, (made = card(region)));
      made.draw(region, state);
      return made.element;
    }));
  }

  /** @param {string} name */
  focus(name) {
    const made = this.#cards.get(name);
    made?.element.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
    made?.power.focus({ preventScroll: true });
  }
}

/** @param {RegionState} first */
function card(first) {
  const { name } = first;
  let region = first;
  /** @type {State['links']} */
  let links = [];
  const badge = h('span', { class: 'badge' });
  const facts = ['conns', 'accepted/s', 'in its log'].map((label) => ({ label, value: h('dd') }));
  const note = h('p', { class: 'note' });
  const lags = h('div', { class: 'lags' });
  const list = h('ul', { class: 'gateways', 'aria-label': `Gateways of ${name}` });
  const power = h('button', { type: 'button', onclick: () => {
    const kill = region.state !== 'down';
    void order(() => dev.region(name, kill ? 'kill' : 'restart'), kill ? `Region ${name} killed` : `Region ${name} is starting`, power);
  } });
  const isolate = h('button', { type: 'button', class: 'small quiet', onclick: () => {
    const own = links.filter((link) => link.from === name || link.to === name);
    const cut = own.some((link) => link.state !== 'cut');
    void order(
      () => Promise.all(own.map(({ from, to }) => (cut ? dev.cut(from, to) : dev.heal(from, to)))),
      cut ? `All links of ${name} cut` : `All links of ${name} healed`,
      isolate,
    );
  } });
  /** @type {Map<string, ReturnType<typeof gateway>>} */
  const gateways = new Map();
  const element = h('section', { class: 'panel card', 'aria-label': `Region ${name}`, dataset: { hue: hue(name), region: name } },
    h('header', {}, h('h2', {}, regionTag(name)), badge, h('span', { class: 'space' }), isolate),
    h('dl', { class: 'facts' }, ...facts.map(({ label, value }) => h('div', {}, h('dt', {}, label), value))),
    note,
    lags,
    list,
    h('div', { class: 'orders' }, power),
  );

  /** @param {RegionState} now @param {State} state */
  function draw(now, state) {
    region = now;
    links = state.links;
    const own = state.gateways.filter((g) => g.region === name);
    element.classList.toggle('down', now.state === 'down');
    text(badge, now.state);
    badge.className = `badge ${BADGES[now.state] ?? ''}`;
    const conns = own.reduce((sum, g) => sum + g.conns, 0);
    [whole(conns), perSecond(now.submit_rate), whole(now.log ?? 0)].forEach((value, i) => text(facts[i].value, value));
    if (facts[2].value.parentElement) facts[2].value.parentElement.hidden = now.log === undefined;
    note.hidden = !now.note;
    text(note, now.note ?? '');
    const behind = Object.entries(now.apply_lag ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
    const drawn = JSON.stringify(behind.map(([origin, seconds]) => [origin, lag(seconds)]));
    if (lags.dataset.drawn !== drawn) {
      lags.dataset.drawn = drawn;
      lags.replaceChildren(h('span', { class: 'what' }, 'Apply lag'), ...(behind.length ? behind.map(([origin, seconds]) =>
        h('span', { class: 'lag' }, regionTag(origin), h('span', { class: grave(seconds) }, seconds < 1 ? `${Math.round(seconds * 1000)} ms` : lag(seconds)))) : ['nothing yet']));
    }
    arrange(list, own.map((g) => {
      let made = gateways.get(g.id);
      if (!made) gateways.set(g.id, (made = gateway(g)));
      made.draw(g, now.state === 'down');
      return made.element;
    }));
    face(power, now.state === 'down' ? 'restart' : 'kill', 'region', name);
    const cut = state.links.filter((link) => link.from === name || link.to === name).every((link) => link.state === 'cut');
    isolate.hidden = state.links.length === 0;
    text(isolate, cut ? 'Heal all its links' : 'Cut all its links');
    isolate.setAttribute('aria-label', `${cut ? 'Heal' : 'Cut'} all its links: region ${name}`); // begins as what is seen
  }
  return { element, power, draw };
}

/** @param {GatewayState} first */
function gateway(first) {
  let now = first;
  const conns = h('span', { class: 'figure' });
  const rate = h('span', { class: 'figure' });
  const button = h('button', { type: 'button', onclick: () => {
    const kill = now.state !== 'down';
    void order(() => dev.gateway(now.region, now.id, kill ? 'kill' : 'restart'), `Gateway ${now.region}/${now.id} ${kill ? 'killed' : 'is starting'}`, button);
  } });
  const element = h('li', { dataset: { gateway: `${first.region}/${first.id}` } },
    h('span', { class: 'id', title: first.url }, h('span', {}, first.id)), conns, rate, button);
  /** @param {GatewayState} g @param {boolean} regionDown */
  function draw(g, regionDown) {
    now = g;
    element.dataset.state = g.state;
    text(conns, `${whole(g.conns)} conn${g.conns === 1 ? '' : 's'}`);
    text(rate, `${perSecond(g.rate)} frames/s`);
    face(button, g.state === 'down' ? 'restart' : 'kill', 'gateway', `${g.region}/${g.id}`);
    button.hidden = regionDown;
  }
  return { element, draw };
}

/**
 * Makes a button say what it would do.
 * @param {HTMLButtonElement} button @param {'kill' | 'restart'} what @param {'region' | 'gateway'} kind @param {string} name
 */
function face(button, what, kind, name) {
  if (button.dataset.order === what) return;
  button.dataset.order = what;
  button.className = `small${what === 'kill' ? ' danger' : ''}`;
  const words = what === 'kill' ? 'Kill' : 'Restart';
  button.replaceChildren(icon(what === 'kill' ? 'power' : 'restart'), kind === 'region' ? `${words} the region` : words);
  button.setAttribute('aria-label', `${words} ${kind} ${name}`);
}
