// @ts-check
// What a client keeps across page loads: its device id, its login number, what it has not sent yet.

/** @typedef {{conversation: string, clientId: string, text: string, ack: 'region' | 'global', trace: string}} Unsent */
/** @typedef {Pick<Storage, 'getItem' | 'setItem'>} Shelf  localStorage, or something like it */

/** A shelf that forgets: for browsers that refuse storage. Every page load is a new device then. */
export class MemoryShelf {
  /** @type {Map<string, string>} */
  #items = new Map();
  /** @param {string} key */
  getItem(key) {
    return this.#items.get(key) ?? null;
  }
  /** @param {string} key @param {string} value */
  setItem(key, value) {
    this.#items.set(key, value);
  }
}

/** The browser's localStorage if it can be written, else memory. */
export function defaultShelf() {
  try {
    localStorage.setItem('antipode', '1');
    return localStorage;
  } catch {
    return new MemoryShelf();
  }
}

/** How long a reloaded page waits for the device number that it had before: its predecessor gives it back any moment. */
const OWN_SLOT_MS = 2000;
const SLOTS = 64;

/**
 * Takes the lowest device number of this user that no other open tab has, for as long as the page lives: two tabs of one
 * user are two devices, and neither throws the other out. A tab that is reloaded stays the device that it was.
 * @param {string} uid @param {AbortSignal} signal  gives the number back
 * @returns {Promise<number>}
 */
export async function takeSlot(uid, signal) {
  if (!globalThis.navigator?.locks) return 0;
  const key = `antipode/${uid}/slot`;
  /** @type {string | null} */
  let had = null;
  try {
    had = sessionStorage.getItem(key);
  } catch {
    // no storage: a new number
  }
  if (had !== null && (await lock(`antipode/${uid}/${had}`, signal, OWN_SLOT_MS))) return Number(had);
  for (let slot = 0; slot < SLOTS; slot++) {
    if (!(await lock(`antipode/${uid}/${slot}`, signal, 0))) continue;
    try {
      sessionStorage.setItem(key, String(slot));
    } catch {
      // as above
    }
    return slot;
  }
  return SLOTS;
}

/**
 * Holds a lock until the signal aborts. False: it was not to be had in time.
 * @param {string} name @param {AbortSignal} signal @param {number} waitMs
 * @returns {Promise<boolean>}
 */
function lock(name, signal, waitMs) {
  return new Promise((resolve) => {
    const options = waitMs > 0 ? { signal: AbortSignal.timeout(waitMs) } : { ifAvailable: true };
    navigator.locks
      .request(name, options, (held) => {
        resolve(held !== null);
        if (!held) return undefined;
        return new Promise((free) => signal.addEventListener('abort', () => free(undefined), { once: true }));
      })
      .catch(() => resolve(false));
  });
}

export class Store {
  /** @param {string} uid @param {number} slot @param {Shelf} shelf */
  constructor(uid, slot, shelf) {
    /** @type {string} */
    this.prefix = `antipode/${uid}/${slot}/`;
    /** @type {Shelf} */
    this.shelf = shelf;
    let device = this.#get('device');
    // A device without its login number would claim old logins: losing one makes a new device.
    if (!device || !this.#get('login')) {
      device = `web-${crypto.randomUUID()}`;
      this.#set('login', '0');
      this.#set('device', device);
    }
    this.device = device;
  }

  /** The next login number. It is stored before it is returned, so none is ever sent twice. */
  nextLogin() {
    const login = BigInt(this.#get('login') ?? '0') + 1n;
    this.#set('login', login.toString());
    return login;
  }

  /** @returns {Unsent[]} */
  unsent() {
    try {
      const list = JSON.parse(this.#get('unsent') ?? '[]');
      return Array.isArray(list) ? list : [];
    } catch {
      return [];
    }
  }

  /** @param {Unsent[]} list */
  keepUnsent(list) {
    this.#set('unsent', JSON.stringify(list));
  }

  /** Round trips in ms by region, reported to ipconf. @returns {Record<string, number>} */
  rtts() {
    try {
      return JSON.parse(this.#get('rtt') ?? '{}') ?? {};
    } catch {
      return {};
    }
  }

  /** @param {string} region @param {number} ms */
  keepRTT(region, ms) {
    const rtts = this.rtts();
    rtts[region] = Math.round(rtts[region] === undefined ? ms : rtts[region] * 0.7 + ms * 0.3);
    this.#set('rtt', JSON.stringify(rtts));
  }

  /** They were measured in another network. */
  forgetRTTs() {
    this.#set('rtt', '{}');
  }

  /** The gateway used last, region/id. */
  get last() {
    return this.#get('last') ?? '';
  }
  set last(gateway) {
    this.#set('last', gateway);
  }

  /** The last list of gateways, as Endpoints writes it. */
  get list() {
    return this.#get('gateways') ?? '';
  }
  set list(text) {
    this.#set('gateways', text);
  }

  /** @param {string} name */
  #get(name) {
    return this.shelf.getItem(this.prefix + name);
  }
  /** @param {string} name @param {string} value */
  #set(name, value) {
    this.shelf.setItem(this.prefix + name, value);
  }
}
