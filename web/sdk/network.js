// @ts-check
// What the browser tells of its network: of what kind it is, and that it is another one.

/** @typedef {EventTarget & {type?: string, effectiveType?: string}} Information  NetworkInformation, as far as a browser has it */

/**
 * The kind of a network, in the words of ipconf's parameter network; empty: the browser does not tell. A network that is as slow as
 * 3G is treated as 3G, by whatever it comes.
 * @param {{type?: string, effectiveType?: string}} [information]
 */
export function kindOf({ type = '', effectiveType = '' } = {}) {
  if (effectiveType === 'slow-2g') return 'slow';
  if (effectiveType === '2g' || effectiveType === '3g') return effectiveType;
  if (type === 'cellular') return effectiveType || 'cell';
  return type === 'wifi' || type === 'ethernet' ? type : '';
}

/**
 * Watches the network, and returns its kind now. kind is told when that is another one; changed, that the device is in another
 * network, or in one again. Browsers without NetworkInformation tell the latter alone.
 * @param {{kind: (kind: string) => void, changed: () => void}} told
 * @param {AbortSignal} signal  ends it
 * @param {{information?: Information, page?: EventTarget}} [browser]
 */
export function watchNetwork(told, signal, browser = here()) {
  const { information, page } = browser;
  let type = information?.type;
  let kind = kindOf(information);
  information?.addEventListener?.(
    'change', // of its estimates of delay and bandwidth too
    () => {
      const another = information.type !== type;
      type = information.type;
      if (type === 'none') return; // online tells of what follows
      if (kind !== kindOf(information)) told.kind((kind = kindOf(information)));
      if (another) told.changed();
    },
    { signal },
  );
  page?.addEventListener('online', () => told.changed(), { signal });
  return kind;
}

/** @returns {{information?: Information, page?: EventTarget}} */
function here() {
  const information = /** @type {any} */ (globalThis.navigator)?.connection;
  return { information, page: typeof globalThis.addEventListener === 'function' ? globalThis : undefined };
}
