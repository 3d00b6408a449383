// @ts-check
import { h } from '../dom.js';

/** Users that dev suggests. Any other name will do. */
export const SUGGESTED = ['ann', 'bob', 'cho', 'dee', 'eli', 'fay'];

/**
 * A picture for a name: its first letters on a colour that depends on the name alone.
 * @param {string} name @param {{small?: boolean, group?: boolean}} [options]
 */
export function avatar(name, { small = false, group = false } = {}) {
  let turn = 0;
  for (const c of name) turn = (turn * 31 + (c.codePointAt(0) ?? 0)) % 360;
  const letters = [...name].slice(0, 2).join('');
  return h('span', { class: `avatar${small ? ' small' : ''}${group ? ' group' : ''}`, 'aria-hidden': 'true', style: { '--turn': turn } }, letters);
}

/**
 * Fills a row of buttons that put a suggested name into a field.
 * @param {HTMLElement} row @param {HTMLInputElement} field @param {string[]} names @param {boolean} [several] comma-separated
 */
export function suggest(row, field, names, several = false) {
  row.replaceChildren(
    ...names.map((name) =>
      h('button', {
        type: 'button',
        onclick: () => {
          const had = several ? split(field.value).filter((uid) => uid !== name) : [];
          field.value = [...had, name].join(', ');
          if (!several) field.focus();
        },
      }, name),
    ),
  );
}

/** @param {string} list */
export function split(list) {
  return [...new Set(list.split(/[\s,;]+/).filter(Boolean))];
}
