// @ts-check
// Regions as both pages show them: a name with a colour, by the order of their names.

import { h } from './dom.js';

/** @type {string[]} */
let names = [];

/** @param {string[]} regions */
export function knowRegions(regions) {
  names = [...regions].sort();
}

/** The colour number of a region, for data-hue. @param {string} region */
export function hue(region) {
  const at = names.indexOf(region);
  return at < 0 ? 'none' : String(at % 6);
}

/** A region's name in its colour. @param {string} region @param {string} [title] */
export function regionTag(region, title) {
  return h('span', { class: 'region', dataset: { hue: hue(region) }, title }, region);
}
