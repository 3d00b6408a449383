// @ts-check
import { s } from '../dom.js';

const POINTS = 60;
const WIDTH = 64;
const HEIGHT = 24;

/**
 * A line of the last minute, one point a second. Its top is the highest value, but no less than floor: noise stays flat.
 * @param {string} label @param {number} floor
 */
export function spark(label, floor) {
  /** @type {number[]} */
  const values = [];
  const line = s('path');
  const area = s('path', { class: 'area' });
  const element = s('svg', { class: 'spark', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': label }, area, line);
  return {
    element,
    /** @param {number} value */
    push(value) {
      values.push(value);
      if (values.length > POINTS) values.shift();
      const top = Math.max(floor, ...values);
      const points = values.map((v, i) => {
        const x = WIDTH - (values.length - 1 - i) * (WIDTH / (POINTS - 1));
        return `${x.toFixed(1)} ${(HEIGHT - 2 - (v / top) * (HEIGHT - 5)).toFixed(1)}`;
      });
      line.setAttribute('d', points.length ? `M${points.join('L')}` : '');
      const left = points[0]?.split(' ')[0] ?? '0';
      area.setAttribute('d', points.length ? `M${points.join('L')}L${WIDTH} ${HEIGHT}L${left} ${HEIGHT}Z` : '');
    },
  };
}
