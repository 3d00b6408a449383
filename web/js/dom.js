// @ts-check
// Small things for making pages.

/** @typedef {Node | string | number | false | null | undefined} Child */

/**
 * Makes an element. Properties: class, dataset, on<event> handlers, style properties under style, booleans as present or
 * absent attributes, everything else as attributes.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag @param {Record<string, any>} [properties] @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  set(element, properties);
  element.append(...children.filter(shown).map(node));
  return element;
}

/**
 * Makes an SVG element.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag @param {Record<string, any>} [properties] @param {...Child} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function s(tag, properties = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  set(element, properties);
  element.append(...children.filter(shown).map(node));
  return element;
}

/** @param {Child} child @returns {child is Node | string | number} */
const shown = (child) => child !== false && child !== null && child !== undefined;
/** @param {Node | string | number} child */
const node = (child) => (typeof child === 'number' ? String(child) : child);

/** @param {HTMLElement | SVGElement} element @param {Record<string, any>} properties */
function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'dataset') for (const [key, v] of Object.entries(value)) element.dataset[key] = String(v);
    else if (name === 'style') for (const [key, v] of Object.entries(value)) element.style.setProperty(key, String(v));
    else element.setAttribute(name, value === true ? '' : String(value));
  }
}

/**
 * The element with an id; it must be there.
 * @template {Element} [T=HTMLElement]
 * @param {string} id @param {new () => T} [type]
 * @returns {T}
 */
export function byID(id, type) {
  const element = document.getElementById(id);
  if (!element || (type && !(element instanceof type))) throw new Error(`the page has no ${id}`);
  return /** @type {any} */ (element);
}

/**
 * Sets an element's text if it is another: unchanged text keeps selections and quiet screen readers.
 * @param {Element} element @param {string} text
 */
export function text(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of a parent the elements given, in that order, moving only what must move: focus, hover and
 * animations stay.
 * @param {Element} parent @param {Element[]} elements
 */
export function arrange(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const element of elements) {
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
}

/**
 * Runs draw soon, once, however often the returned function is called before.
 * @param {() => void} draw
 */
export function soon(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    setTimeout(() => {
      asked = false;
      draw();
    }, 16); // not an animation frame: a page in the background keeps its title and counts right
  };
}

/**
 * Says something for a moment, also to screen readers. The page has an element with the id "toasts".
 * @param {string} message @param {{bad?: boolean}} [options]
 */
export function toast(message, { bad = false } = {}) {
  const element = h('div', { class: bad ? 'toast bad' : 'toast', role: bad ? 'alert' : 'status' }, message);
  byID('toasts').append(element);
  setTimeout(() => element.remove(), bad ? 7000 : 3500);
}

/**
 * Puts a dialog's parts to work: data-close buttons close it, a click beside it too.
 * @param {HTMLDialogElement} dialog
 */
export function closable(dialog) {
  dialog.addEventListener('click', (event) => {
    const target = /** @type {Element} */ (event.target);
    if (target === dialog || target.closest('[data-close]')) dialog.close();
  });
}
