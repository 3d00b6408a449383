// @ts-check
// Recent messages, and the way of one through the regions: a lane for each service of each region, on one time axis.

import { dev } from '../dev.js';
import { arrange, byID, h } from '../dom.js';
import { regionTag, hue } from '../regions.js';
import { millis, time } from './words.js';

/** @typedef {import('../dev.js').TraceLine} TraceLine */
/** @typedef {import('../dev.js').Span} Span */

const LIST_MS = 1500;
/** The chosen trace is asked for again for so long: late regions add their spans. */
const GROW_MS = 30000;
const ROW = 28;
/** Rough pixels of a letter of a span's name, and of the names of lanes beside the axis. */
const LETTER = 7.6;
const LANE_NAMES = 170;

export class Traces {
  /** @type {TraceLine[]} */
  #lines = [];
  /** @type {Map<string, {item: HTMLElement, drawn: string}>} */
  #items = new Map();
  #chosen = '';
  #chosenAt = 0;
  #drawn = '';
  /** @type {string} the span whose facts are shown */
  #span = '';

  constructor() {
    this.follow = byID('follow', HTMLInputElement);
    this.follow.addEventListener('change', () => this.follow.checked && void this.#list());
    byID('trace-list').addEventListener('keydown', (event) => {
      const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
      if (!step) return;
      const buttons = [...byID('trace-list').querySelectorAll('button')];
      buttons[buttons.findIndex((button) => button === document.activeElement) + step]?.focus();
      event.preventDefault();
    });
    addEventListener('hashchange', () => this.#fromHash());
  }

  start() {
    this.#fromHash();
    void this.#list();
    setInterval(() => {
      if (document.visibilityState !== 'visible') return;
      if (this.follow.checked) void this.#list();
      if (this.#chosen && Date.now() - this.#chosenAt < GROW_MS) void this.#spans();
    }, LIST_MS);
  }

  #fromHash() {
    const id = /^#trace=([0-9a-f]{32})$/.exec(location.hash)?.[1];
    if (id && id !== this.#chosen) {
      this.choose(id);
      byID('trace').scrollIntoView({ block: 'center' });
    }
  }

  /** @param {string} id */
  choose(id) {
    this.#chosen = id;
    this.#chosenAt = Date.now();
    this.#span = this.#drawn = '';
    history.replaceState(null, '', `#trace=${id}`);
    this.#draw();
    void this.#spans();
  }

  async #list() {
    try {
      this.#lines = await dev.traces();
      this.#draw();
    } catch {
      // the bar says that dev does not answer
    }
  }

  async #spans() {
    const id = this.#chosen;
    try {
      const spans = await dev.spans(id);
      if (id === this.#chosen) this.#waterfall(spans);
    } catch (error) {
      if (id === this.#chosen && !this.#drawn) byID('trace').replaceChildren(h('p', { class: 'empty' }, error instanceof Error ? error.message : String(error)));
    }
  }

  #draw() {
    byID('traces-empty').hidden = this.#lines.length > 0;
    arrange(byID('trace-list'), this.#lines.map((line) => {
      const current = line.id === this.#chosen;
      const drawn = JSON.stringify([line.duration_us, line.regions, current]);
      const had = this.#items.get(line.id);
      if (had?.drawn === drawn) return had.item;
      const item = had?.item ?? h('li');
      const focused = item.contains(document.activeElement);
      const button = h('button', { type: 'button', 'aria-current': String(current), dataset: { trace: line.id }, onclick: () => this.choose(line.id) },
        h('span', { class: 'when' }, time(line.start_us / 1000)),
        h('span', { class: 'who' }, title(line)),
        h('span', { class: 'took' }, millis(line.duration_us)),
        h('span', { class: 'path' }, ...(line.regions ?? []).flatMap((region, i) => [i > 0 && h('span', { 'aria-hidden': 'true' }, '→'), regionTag(region)]).filter((part) => part !== false),
          line.error ? h('span', { class: 'badge bad' }, 'error') : ''),
      );
      item.replaceChildren(button);
      if (focused) button.focus();
      this.#items.set(line.id, { item, drawn });
      return item;
    }));
    const kept = new Set(this.#lines.map((line) => line.id));
    for (const id of this.#items.keys()) if (!kept.has(id)) this.#items.delete(id);
  }

  /** @param {Span[]} spans */
  #waterfall(spans) {
    const drawn = JSON.stringify(spans) + this.#span;
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const start = Math.min(...spans.map((span) => span.start_us));
    const end = Math.max(...spans.map((span) => span.start_us + span.duration_us));
    const step = niceStep((end - start) / 1000);
    const total = Math.max((end - start) / 1000, step) * 1.0001;
    const wide = Math.ceil(total / step) * step; // ms on the axis
    /** @param {number} us */
    const share = (us) => `${((us / 1000 / wide) * 100).toFixed(3)}%`;

    const axis = Math.max(160, byID('trace').clientWidth - LANE_NAMES); // px
    /** How much of the axis a span's name takes. @param {Span} span */
    const nameShare = (span) => (short(span.name).length * LETTER + 16) / axis;

    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.span : undefined;
    const line = this.#lines.find((l) => l.id === this.#chosen);
    const head = h('div', { class: 'trace-head' },
      h('b', {}, line ? title(line) : 'Trace'),
      h('span', {}, `${millis(end - start)} from first to last, ${spans.length} span${spans.length === 1 ? '' : 's'}, at ${time(start / 1000)}`),
      h('code', {}, this.#chosen),
    );
    const ticks = Array.from({ length: Math.round(wide / step) }, (_, i) => h('span', { style: { left: share(i * step * 1000) } }, `${trim(i * step)} ms`));
    const grid = h('div', { class: 'waterfall', style: { '--step': share(step * 1000) } }, h('div'), h('div', { class: 'axis', 'aria-hidden': 'true' }, ...ticks));
    for (const lane of lanes(spans)) {
      const rows = stack(lane.spans, (span) => nameShare(span) * wide * 1000);
      grid.append(
        h('div', { class: 'lane-name', dataset: { hue: hue(lane.region) } }, regionTag(lane.region || '–'), h('span', { class: 'service' }, lane.service)),
        h('div', { class: 'lane', style: { height: `${Math.max(...rows.map(({ row }) => row + 1)) * ROW}px` } },
          ...rows.map(({ span, row }) => {
            const offset = span.start_us - start;
            const part = span.duration_us / 1000 / wide;
            const name = nameShare(span);
            const place = part > name ? ' inner' : offset / 1000 / wide + part + name > 1 ? ' flip' : '';
            return h('button', {
              type: 'button', class: `span${place}${span.error ? ' error' : ''}`, 'aria-pressed': String(span.id === this.#span),
              'aria-label': `${span.name} in ${span.region} ${span.service}: begins after ${millis(offset)}, takes ${millis(span.duration_us)}${span.error ? `, failed: ${span.error}` : ''}`,
              title: `${span.name} · ${millis(span.duration_us)}`,
              dataset: { hue: hue(span.region), span: span.id, name: span.name, region: span.region },
              style: { left: share(offset), width: share(span.duration_us), top: `${row * ROW + 4}px` },
              onclick: () => {
                this.#span = this.#span === span.id ? '' : span.id;
                this.#waterfall(spans);
              },
            }, h('b', {}, short(span.name)));
          }),
        ),
      );
    }
    const chosen = spans.find((span) => span.id === this.#span);
    byID('trace').replaceChildren(head, grid, ...(chosen ? [facts(chosen, start)] : []));
    const again = focused && byID('trace').querySelector(`[data-span="${CSS.escape(focused)}"]`);
    if (again instanceof HTMLElement) again.focus();
  }
}

/** @param {TraceLine} line */
function title({ id, sender, conversation, root }) {
  const [kind, a, b] = (conversation ?? '').split(':');
  const group = kind === 'g' || kind === 's';
  if (!sender) return kind === 'd' ? `${a} and ${b}` : group ? 'In a group' : conversation || `${root} ${id.slice(0, 8)}`;
  const to = kind === 'd' ? (a === sender ? b : a) : group ? 'a group' : '';
  return to ? `${sender} to ${to}` : sender;
}

/** @param {Span} span @param {number} start */
function facts(span, start) {
  const lines = [
    ['Span', span.name], ['Region', span.region], ['Service', span.service],
    ['Begins after', millis(span.start_us - start)], ['Takes', millis(span.duration_us)],
    ...(span.error ? [['Error', span.error]] : []),
    ...Object.entries(span.attributes ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)),
  ];
  return h('dl', { class: 'span-facts' }, ...lines.map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value))));
}

/**
 * One lane per region and service, regions in the order in which the trace reached them.
 * @param {Span[]} spans
 */
function lanes(spans) {
  /** @type {Map<string, {region: string, service: string, first: number, spans: Span[]}>} */
  const map = new Map();
  /** @type {Map<string, number>} */
  const reached = new Map();
  for (const span of [...spans].sort((a, b) => a.start_us - b.start_us || b.duration_us - a.duration_us)) {
    const key = `${span.region}/${span.service}`;
    const lane = map.get(key) ?? { region: span.region, service: span.service, first: span.start_us, spans: [] };
    lane.spans.push(span);
    map.set(key, lane);
    if (!reached.has(span.region)) reached.set(span.region, span.start_us);
  }
  return [...map.values()].sort((a, b) => (reached.get(a.region) ?? 0) - (reached.get(b.region) ?? 0) || (a.region < b.region ? -1 : a.region > b.region ? 1 : a.first - b.first));
}

/** A span's name without the package of a call: "antipode.v1.Backend/Call" is "Backend/Call". @param {string} name */
const short = (name) => name.replace(/^.*\.(?=[^.]*\/)/, '');

/**
 * Puts spans that overlap, their names included, on rows of their own.
 * @param {Span[]} spans  by start @param {(span: Span) => number} nameUS  how much of the axis its name takes
 */
function stack(spans, nameUS) {
  /** @type {number[]} */
  const ends = [];
  return spans.map((span) => {
    const name = nameUS(span);
    let row = ends.findIndex((end) => end <= span.start_us);
    if (row < 0) row = ends.length;
    ends[row] = span.start_us + (span.duration_us > name ? span.duration_us : span.duration_us + name);
    return { span, row };
  });
}

/** A step of 1, 2 or 5 times a power of ten that makes four to ten ticks. @param {number} ms */
function niceStep(ms) {
  const rough = Math.max(ms, 0.01) / 8;
  const power = 10 ** Math.floor(Math.log10(rough));
  for (const times of [1, 2, 5]) if (rough <= times * power) return times * power;
  return 10 * power;
}

/** @param {number} n */
const trim = (n) => String(Number(n.toPrecision(6)));
