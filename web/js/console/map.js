// @ts-check
// The map: regions on an ellipse, two arrows between each pair.

import { byID, s, text } from '../dom.js';
import { hue } from '../regions.js';
import { grave, lag, perSecond } from './words.js';

/** @typedef {import('../dev.js').State} State */

const WIDTH = 640;
const HEIGHT = 440;
const NODE = 50;

/** @typedef {{x: number, y: number}} Point */
/** @typedef {{group: SVGGElement, major: SVGElement, minor: SVGElement, box: SVGElement, log: number}} Edge */
/** @typedef {{group: SVGGElement, facts: SVGElement[]}} Node */

export class RegionMap {
  /** @type {Map<string, Edge>} */
  #edges = new Map();
  /** @type {Map<string, Node>} */
  #nodes = new Map();
  #drawn = '';

  /** @param {{link: (key: string) => void, region: (name: string) => void}} choose */
  constructor(choose) {
    this.choose = choose;
    this.svg = byID('map', SVGSVGElement);
  }

  /** @param {State} state @param {string} chosen */
  draw(state, chosen) {
    const names = state.regions.map((region) => region.name);
    if (this.#drawn !== names.join()) this.#build(names);
    for (const region of state.regions) {
      const node = this.#nodes.get(region.name);
      if (!node) continue;
      node.group.dataset.state = region.state;
      const down = region.state !== 'up';
      const facts = down ? [region.state, ''] : [`${region.users} user${region.users === 1 ? '' : 's'}`, `${perSecond(region.submit_rate)} msg/s`];
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
      text(edge.minor, minor);
      const width = Math.max(major.length * 7.2, minor.length * 5.8) + 18;
      edge.box.setAttribute('width', String(width));
      edge.box.setAttribute('x', String(-width / 2));
      edge.group.setAttribute('aria-label', `Link ${link.from} to ${link.to}: ${link.state}, lag ${lag(link.lag_seconds)}, ${minor}`);
    }
  }

  /** @param {string[]} names */
  #build(names) {
    this.#drawn = names.join();
    this.#edges.clear();
    this.#nodes.clear();
    const places = layout(names.length);
    const edges = s('g');
    const labels = s('g');
    const nodes = s('g');
    names.forEach((from, i) => {
      names.forEach((to, j) => {
        if (i !== j) edges.append(this.#edge(from, to, places[i], places[j], names.length));
      });
      nodes.append(this.#node(from, places[i]));
    });
    this.svg.replaceChildren(edges, labels, nodes);
  }

  /** @param {string} name @param {Point} at */
  #node(name, at) {
    const facts = [s('text', { class: 'fact', y: 13 }), s('text', { class: 'fact', y: 29 })];
    const group = s('g', { class: 'node', transform: `translate(${at.x} ${at.y})`, dataset: { hue: hue(name), region: name }, ...button(() => this.choose.region(name)) },
      s('circle', { class: 'glow', r: NODE + 9 }),
      s('circle', { class: 'body', r: NODE }),
      s('circle', { class: 'ring', r: NODE + 5 }),
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
    const bow = count > 4 ? 20 : 34;
    const gap = NODE + 14;
    const turn = 0.2;
    /** @param {Point} p @param {number} forward @param {number} right */
    const move = (p, forward, right) => ({ x: p.x + along.x * forward + side.x * right, y: p.y + along.y * forward + side.y * right });
    const start = move(a, gap * Math.cos(turn), gap * Math.sin(turn));
    const end = move(b, -gap * Math.cos(turn), gap * Math.sin(turn));
    const middle = move({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, 0, bow * 1.6 + 2);
    const d = `M${start.x} ${start.y}Q${middle.x} ${middle.y} ${end.x} ${end.y}`;
    const tilt = (Math.atan2(end.y - middle.y, end.x - middle.x) * 180) / Math.PI;
    const at = { x: (start.x + 2 * middle.x + end.x) / 4, y: (start.y + 2 * middle.y + end.y) / 4 };
    const major = s('text', { class: 'major', y: -2 });
    const minor = s('text', { class: 'minor', y: 12 });
    const box = s('rect', { y: -17, height: 36, width: 80, x: -40 });
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
 * @param {number} count
 * @returns {Point[]}
 */
function layout(count) {
  const middle = { x: WIDTH / 2, y: HEIGHT / 2 };
  if (count === 1) return [middle];
  if (count === 2) return [{ x: 110, y: middle.y }, { x: WIDTH - 110, y: middle.y }];
  if (count === 3) return [{ x: middle.x, y: 84 }, { x: 110, y: HEIGHT - 92 }, { x: WIDTH - 110, y: HEIGHT - 92 }];
  return Array.from({ length: count }, (_, i) => {
    const angle = -Math.PI / 2 + (i * 2 * Math.PI) / count;
    return { x: middle.x + Math.cos(angle) * (WIDTH / 2 - 90), y: middle.y + Math.sin(angle) * (HEIGHT / 2 - 70) };
  });
}
