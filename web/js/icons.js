// @ts-check
import { s } from './dom.js';

/** Paths on a 24 by 24 grid, drawn with strokes. */
const PATHS = {
  clock: ['M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 1 0 0-17', 'M12 7.5V12l3 2'],
  check: ['M5 12.5l4.5 4.5L19 7.5'],
  checks: ['M2.5 12.5L7 17l9.5-9.5', 'M11.5 16l1 1L22 7.5'],
  alert: ['M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 1 0 0-17', 'M12 7.5v5.5', 'M12 16.3v.2'],
  shield: ['M12 3l7 2.8v5.4c0 4.4-2.9 7.9-7 9.8c-4.1-1.9-7-5.4-7-9.8V5.8z', 'M9 12l2.2 2.2L15.2 10'],
  plus: ['M12 5v14', 'M5 12h14'],
  people: ['M9 11.5a3.5 3.5 0 1 0 0-7a3.5 3.5 0 1 0 0 7', 'M2.5 19.5c.6-3.4 3.2-5 6.5-5s5.9 1.6 6.5 5', 'M16 4.8a3.5 3.5 0 0 1 0 6.4', 'M18 14.9c1.9.8 3.1 2.3 3.5 4.6'],
  send: ['M4.5 12L20 4.5L15.5 20L12 13.5z', 'M12 13.5L20 4.5'],
  sun: ['M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8', 'M12 2.5v2', 'M12 19.5v2', 'M2.5 12h2', 'M19.5 12h2', 'M5.3 5.3l1.4 1.4', 'M17.3 17.3l1.4 1.4', 'M5.3 18.7l1.4-1.4', 'M17.3 6.7l1.4-1.4'],
  moon: ['M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z'],
  late: ['M12 20v-9', 'M8 14.5l4-4l4 4', 'M5 5h14'],
  back: ['M15 5l-7 7l7 7'],
  close: ['M6 6l12 12', 'M18 6L6 18'],
  cut: ['M6 8.5a2.5 2.5 0 1 0 0-5a2.5 2.5 0 1 0 0 5', 'M6 20.5a2.5 2.5 0 1 0 0-5a2.5 2.5 0 1 0 0 5', 'M8 7.5L20 18', 'M8 16.5L20 6'],
  heal: ['M9.5 14.5l5-5', 'M11 7l1.8-1.8a4.2 4.2 0 0 1 6 6L17 13', 'M13 17l-1.8 1.8a4.2 4.2 0 0 1-6-6L7 11'],
  power: ['M12 3.5v8', 'M6.7 7a7.5 7.5 0 1 0 10.6 0'],
  restart: ['M4.5 12a7.5 7.5 0 1 0 2.4-5.5', 'M4.5 4v4h4'],
  more: ['M6 12h.01', 'M12 12h.01', 'M18 12h.01'],
};

/** @typedef {keyof typeof PATHS} Icon */

/**
 * An icon. It is decoration: say in text what it means.
 * @param {Icon} name
 */
export function icon(name) {
  return s('svg', { class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true', dataset: { icon: name } }, ...PATHS[name].map((d) => s('path', { d })));
}
