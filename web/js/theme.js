// @ts-check
// Light or dark: the system's, until somebody chooses.

import { icon } from './icons.js';

const KEY = 'antipode/theme';

/** @returns {'light' | 'dark'} */
function current() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === 'light' || chosen === 'dark') return chosen;
  return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

/**
 * Makes a button change the theme.
 * @param {HTMLElement} button
 */
export function themed(button) {
  const draw = () => {
    const dark = current() === 'dark';
    button.replaceChildren(icon(dark ? 'sun' : 'moon'));
    button.setAttribute('aria-label', dark ? 'Use the light theme' : 'Use the dark theme');
    button.title = dark ? 'Light theme' : 'Dark theme';
  };
  button.addEventListener('click', () => {
    document.documentElement.dataset.theme = current() === 'dark' ? 'light' : 'dark';
    try {
      localStorage.setItem(KEY, current());
    } catch {
      // kept for this page only
    }
    draw();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  draw();
}

try {
  const kept = localStorage.getItem(KEY);
  if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept;
} catch {
  // the system's
}
