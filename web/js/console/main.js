// @ts-check
// The console page: asks dev for its state each second and shows it.
//
// The address chooses a trace: /console#trace=<trace id>

import { dev } from '../dev.js';
import { byID, h, text } from '../dom.js';
import { knowRegions } from '../regions.js';
import { themed } from '../theme.js';
import { Cards } from './cards.js';
import { Events } from './events.js';
import { Links } from './links.js';
import { RegionMap } from './map.js';
import { afterOrders } from './orders.js';
import { Traces } from './traces.js';
import { grave, lag, perSecond, whole } from './words.js';

/** @typedef {import('../dev.js').State} State */

const EVERY_MS = 1000;

themed(byID('theme'));

let chosen = '';
/** @type {State | undefined} */
let last;
const links = new Links();
const cards = new Cards();
const events = new Events();
const traces = new Traces();
const map = new RegionMap({
  link: (key) => {
    chosen = key;
    redraw();
    links.focus(key);
  },
  region: (name) => cards.focus(name),
});

const figures = [
  ['regions', 'Regions up'], ['links', 'Links open'], ['lag', 'Highest lag'], ['rate', 'Accepted per second'], ['conns', 'Connections'],
].map(([key, label]) => {
  const value = h('dd');
  const box = h('div', { dataset: { figure: key } }, h('dt', {}, label), value);
  byID('figures').append(box);
  return { key, value, box };
});

/** @param {State} state */
function sums(state) {
  const up = state.regions.filter((region) => region.state === 'up').length;
  const open = state.links.filter((link) => link.state === 'open').length;
  const worst = Math.max(0, ...state.links.map((link) => link.lag_seconds));
  const rate = state.regions.reduce((sum, region) => sum + region.submit_rate, 0);
  const conns = state.gateways.reduce((sum, gateway) => sum + gateway.conns, 0);
  /** @type {Record<string, [string, string, string]>} */
  const values = {
    regions: [String(up), ` of ${state.regions.length}`, up < state.regions.length ? 'bad' : ''],
    links: [String(open), ` of ${state.links.length}`, open < state.links.length ? 'bad' : ''],
    lag: [lag(worst), '', grave(worst)],
    rate: [perSecond(rate), '', ''],
    conns: [whole(conns), '', ''],
  };
  return values;
}

/** @param {State} state */
function health(state) {
  const wrong = [
    ...state.regions.filter((region) => region.state !== 'up').map((region) => `region ${region.name} is ${region.state}`),
    ...state.gateways.filter((g) => g.state !== 'up' && state.regions.find((region) => region.name === g.region)?.state === 'up').map((g) => `${g.region}/${g.id} is ${g.state}`),
  ];
  const cut = state.links.filter((link) => link.state !== 'open').length;
  if (cut) wrong.push(`${cut} link${cut === 1 ? ' is' : 's are'} not open`);
  const behind = state.links.filter((link) => link.state === 'open' && grave(link.lag_seconds) === 'bad').length;
  if (behind) wrong.push(`${behind} link${behind === 1 ? ' is' : 's are'} behind`);
  return wrong;
}

function redraw(tick = false) {
  if (!last) return;
  knowRegions(last.regions.map((region) => region.name));
  map.draw(last, chosen);
  links.draw(last.links, chosen, tick);
  cards.draw(last);
}

let failures = 0;

async function refresh() {
  try {
    const state = await dev.state();
    const tick = !last || state.now_ms - last.now_ms > EVERY_MS / 2;
    last = state;
    failures = 0;
    redraw(tick);
    events.draw(state);
    const values = sums(state);
    for (const { key, value, box } of figures) {
      const [big, small, className] = values[key];
      if (value.textContent !== big + small) value.replaceChildren(big, h('small', {}, small));
      box.className = className;
    }
    const wrong = health(state);
    const badge = byID('health');
    text(badge, wrong.length === 0 ? 'All well' : wrong.length === 1 ? wrong[0] : `${wrong[0]} and ${wrong.length - 1} more`);
    badge.title = wrong.join('\n');
    badge.className = `badge ${wrong.length === 0 ? 'good' : 'bad'}`;
    text(byID('fresh'), state.version ? `version ${state.version}` : '');
    byID('fresh').className = 'fresh';
    document.title = `${wrong.length ? '▲ ' : ''}Antipode console`;
  } catch {
    if (++failures < 2) return;
    text(byID('fresh'), `dev does not answer; what you see is old`);
    byID('fresh').className = 'fresh stale';
    text(byID('health'), 'No answer');
    byID('health').className = 'badge bad';
  }
}

afterOrders(() => void refresh());

/** One question at a time: the next second begins when the last is answered. */
async function poll() {
  for (;;) {
    const began = performance.now();
    if (document.visibilityState === 'visible') await refresh();
    await new Promise((go) => setTimeout(go, Math.max(100, EVERY_MS - (performance.now() - began))));
  }
}

await refresh();
traces.start();
void poll();
