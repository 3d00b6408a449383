// @ts-check
// What the records of a group say of one user. Pulls cover what was hidden from the user, so it tells when a record makes readable
// what may have been covered already: an addition that stands before the one that was known, because two regions added the
// user while they could not hear each other. It spells stretches as regions do. Pure.

import { comparePlaces } from './place.js';

/** @typedef {import('./place.js').Place} Place */
/** @typedef {{id: string, place: Place, add: boolean}} Change */

/** What is remembered of one user: the latest. */
const MAX_CHANGES = 1024;

export class Membership {
  /** @type {Change[]} in place order, each place once */
  #changes = [];

  /** @param {string} uid */
  constructor(uid) {
    this.uid = uid;
  }

  /**
   * Takes the records of a push or of a page.
   * @param {import('./timeline.js').WireRecord[]} records
   * @returns {{added: boolean, earlier: Place[]}}  earlier: additions that stand before a stretch known before, and in none
   */
  hear(records) {
    const known = this.#spell();
    let added = false;
    const earlier = [];
    for (const record of records) {
      const add = this.#named(record);
      if (add === undefined) continue;
      const place = { stamp: BigInt(record.stamp ?? 0), origin: record.origin ?? '', seq: BigInt(record.seq ?? 0) };
      const at = this.#changes.findIndex((change) => comparePlaces(place, change.place) <= 0);
      if (at >= 0 && comparePlaces(place, this.#changes[at].place) === 0) continue;
      this.#changes.splice(at < 0 ? this.#changes.length : at, 0, { id: `${record.sender}/${record.clientId}`, place, add });
      added ||= add;
      if (add && precedes(place, known)) earlier.push(place);
    }
    if (this.#changes.length > MAX_CHANGES) this.#changes.splice(0, this.#changes.length - MAX_CHANGES);
    return { added, earlier };
  }

  /**
   * Whether a record adds (true) or removes the user; undefined: neither. Who is both added and removed is removed; who
   * creates a group is in it.
   * @param {import('./timeline.js').WireRecord} record
   */
  #named({ sender, create, member }) {
    if (create) return sender === this.uid || (create.members?.includes(this.uid) ?? false) ? true : undefined;
    if (member?.remove?.includes(this.uid)) return false;
    return member?.add?.includes(this.uid) ? true : undefined;
  }

  /** The stretches of membership in place order. Of records with one id the lowest place counts. */
  #spell() {
    /** @type {{from: Place, to?: Place}[]} */
    const stretches = [];
    const seen = new Set();
    for (const { id, place, add } of this.#changes) {
      if (seen.has(id)) continue;
      seen.add(id);
      const last = stretches.at(-1);
      const current = last !== undefined && last.to === undefined;
      if (add && !current) stretches.push({ from: place });
      else if (!add && current) last.to = place;
    }
    return stretches;
  }
}

/**
 * Whether a place is before one of the stretches, and in none.
 * @param {Place} place @param {{from: Place, to?: Place}[]} stretches
 */
function precedes(place, stretches) {
  const first = stretches.find(({ to }) => !to || comparePlaces(place, to) <= 0); // the first that does not end before it decides
  return first !== undefined && comparePlaces(place, first.from) < 0;
}
