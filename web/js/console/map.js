// @ts-check
// The map: regions on an ellipse, two arrows between each pair.

import { byID, s, text } from '../dom.js';
import { hue } from '../regions.js';
import { grave, lag, perSecond } from './words.js';

/** @typedef {import('../dev.js').State} State */

/** Drawn smaller in a narrow place, so that its words stay as large. */
const WIDE = { width: 640, height: 440, node: 50 };
const NARROW = { width: 430, height: 400, node: 44 };

/** @typedef {{x: number, y: number}} Point */
/** @typedef {{group: SVGGElement, major: SVGElement, minor: SVGElement, box: SVGElement, log: number}} Edge */
/** @typedef {{group: SVGGElement, facts: SVGElement[]}} Node */

export class RegionMap {
  /** @type {Map<string, Edge>} */
  #edges = new Map();
  /** @type {Map<string, Node>} */
  #nodes = new Map();
  #drawn = '';
  #size = WIDE;

  /** @param {{link: (key: string) => void, region: (name: string) => void}} choose */
  constructor(choose) {
    this.choose = choose;
    this.svg = byID('map', SVGSVGElement);
  }

  /** @param {State} state @param {string} chosen */
  draw(state, chosen) {
    const names = state.regions.map((region) => region.name);
    const size = this.svg.clientWidth < 500 ? NARROW : WIDE;
    if (this.#drawn !== names.join() || this.#size !== size) this.#build(names, size);
    for (const region of state.regions) {
      const node = this.#nodes.get(region.name);
      if (!node) continue;
      node.group.dataset.state = region.state;
      const down = region.state !== 'up';
      const conns = state.gateways.reduce((sum, g) => sum + (g.region === region.name ? g.conns : 0), 0);
      const facts = down ? [region.state, ''] : [`${conns} conn${conns === 1 ? '' : 's'}`, `${perSecond(region.submit_rate)} msg/s`];
      facts.forEach((fact, i) => text(node.facts[i], fact));
      node.group.setAttribute('aria-label', `Region ${region.name}: ${facts.filter(Boolean).join(', ')}`);
    }
    for (const link of state.links) {
      const edge = this.#edges.get(`${link.from}/${link.to}`);
      if (!edge) continue;
      const origin = state.regions.find((region) => region.name === link.from);
      edge.group.dataset.state = link.state;
      edge.group.dataset.lag = grave(link.lag_seconds);
      edge.group.classList.toggle('chosen', chosen === `${link.from}/${link.to}`);
      edge.group.classList.toggle('flowing', link.state === 'open' && (origin?.submit_rate ?? 0) > 0);
      const major = link.state === 'cut' ? `cut · ${lag(link.lag_seconds)}` : lag(link.lag_seconds);
      const minor = link.lag_records > 0 ? `${link.lag_records} behind` : `delay ${link.delay_ms} ms`;
      text(edge.major, major);
      text(edge.minor, this.#size === NARROW ? '' : minor);
      const width = Math.max(major.length * 7.2, (edge.minor.textContent ?? '').length * 5.8) + 18;
      edge.box.setAttribute('width', String(width));
      edge.box.setAttribute('x', String(-width / 2));
      edge.group.setAttribute('aria-label', `Link ${link.from} to ${link.to}: ${link.state}, lag ${lag(link.lag_seconds)}, ${minor}`);
    }
  }

  /** @param {string[]} names @param {typeof WIDE} size */
  #build(names, size) {
    this.#drawn = names.join();
    this.#size = size;
    this.svg.setAttribute('viewBox', `0 0 ${size.width} ${size.height}`);
    this.#edges.clear();
    this.#nodes.clear();
    const places = layout(names.length, size);
    const edges = s('g');
    const nodes = s('g');
    names.forEach((from, i) => {
      names.forEach((to, j) => {
        if (i !== j) edges.append(this.#edge(from, to, places[i], places[j], names.length));
      });
      nodes.append(this.#node(from, places[i]));
    });
    this.svg.replaceChildren(edges, nodes);
  }

  /** @param {string} name @param {Point} at */
  #node(name, at) {
    const { node } = this.#size;
    const facts = [s('text', { class: 'fact', y: 13 }), s('text', { class: 'fact', y: 29 })];
    const group = s('g', { class: 'node', transform: `translate(${at.x} ${at.y})`, dataset: { hue: hue(name), region: name }, ...button(() => this.choose.region(name)) },
      s('circle', { class: 'glow', r: node + 9 }),
      s('circle', { class: 'body', r: node }),
      s('circle', { class: 'ring', r: node + 5 }),
      s('text', { class: 'name', y: -6 }, name),
      ...facts,
    );
    this.#nodes.set(name, { group, facts });
    return group;
  }

  /** @param {string} from @param {string} to @param {Point} a @param {Point} b @param {number} count */
  #edge(from, to, a, b, count) {
    const length = Math.hypot(b.x - a.x, b.y - a.y);
    const along = { x: (b.x - a.x) / length, y: (b.y - a.y) / length };
    const side = { x: -along.y, y: along.x }; // to the right of the way: there and back never share a line
    const bow = count > 4 ? 20 : this.#size === NARROW ? 30 : 34;
    const gap = this.#size.node + 14;
    const turn = 0.2;
    /** @param {Point} p @param {number} forward @param {number} right */
    const move = (p, forward, right) => ({ x: p.x + along.x * forward + side.x * right, y: p.y + along.y * forward + side.y * right });
    const start = move(a, gap * Math.cos(turn), gap * Math.sin(turn));
    const end = move(b, -gap * Math.cos(turn), gap * Math.sin(turn));
    const middle = move({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, 0, bow * 1.6 + 2);
    const d = `M${start.x} ${start.y}Q${middle.x} ${middle.y} ${end.x} ${end.y}`;
    const tilt = (Math.atan2(end.y - middle.y, end.x - middle.x) * 180) / Math.PI;
    const at = { x: (start.x + 2 * middle.x + end.x) / 4, y: (start.y + 2 * middle.y + end.y) / 4 };
    const narrow = this.#size === NARROW;
    const major = s('text', { class: 'major', y: narrow ? 4.5 : -2 });
    const minor = s('text', { class: 'minor', y: 12 });
    const box = s('rect', { y: narrow ? -12 : -17, height: narrow ? 24 : 36, width: 80, x: -40 });
    const group = s('g', { class: 'edge', dataset: { hue: hue(from), link: `${from}/${to}` }, ...button(() => this.choose.link(`${from}/${to}`)) },
      s('path', { class: 'line', d }),
      s('path', { class: 'flow', d }),
      s('path', { class: 'head', d: 'M3 0L-9 -5.5L-6 0L-9 5.5Z', transform: `translate(${end.x} ${end.y}) rotate(${tilt})` }),
      s('path', { class: 'hit', d }),
      s('g', { class: 'label', transform: `translate(${at.x} ${at.y})` }, box, major, minor),
    );
    this.#edges.set(`${from}/${to}`, { group, major, minor, box, log: 0 });
    return group;
  }
}

/** @param {() => void} press */
function button(press) {
  return {
    role: 'button',
    tabindex: 0,
    onclick: press,
    /** @param {KeyboardEvent} event */
    onkeydown: (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      press();
    },
  };
}

/**
 * Where the regions stand: two side by side, three as a triangle, more on an ellipse.
 * @param {number} count @param {typeof WIDE} size
 * @returns {Point[]}
 */
function layout(count, { width, height, node }) {
  const edge = node + 24;
  const middle = { x: width / 2, y: height / 2 };
  if (count === 1) return [middle];
  if (count === 2) return [{ x: edge + 20, y: middle.y }, { x: width - edge - 20, y: middle.y }];
  if (count === 3) return [{ x: middle.x, y: edge + 8 }, { x: edge + width * 0.04, y: height - edge - 18 }, { x: width - edge - width * 0.04, y: height - edge - 18 }];
  return Array.from({ length: count }, (_, i) => {
    const angle = -Math.PI / 2 + (i * 2 * Math.PI) / count;
    return { x: middle.x + Math.cos(angle) * (width / 2 - edge - 10), y: middle.y + Math.sin(angle) * (height / 2 - edge) };
  });
}
