// @ts-check
// Places: where a record stands in its conversation. The order by (stamp, origin, seq) is the same in every region.
// Stamps have 64 bits, more than a double holds, so stamps and seqs are BigInt.

/** @typedef {{stamp: bigint, origin: string, seq: bigint}} Place */

/**
 * Orders places: negative if a is before b, 0 if equal, positive if after.
 * @param {Place} a @param {Place} b
 */
export function comparePlaces(a, b) {
  if (a.stamp !== b.stamp) return a.stamp < b.stamp ? -1 : 1;
  if (a.origin !== b.origin) return a.origin < b.origin ? -1 : 1;
  if (a.seq !== b.seq) return a.seq < b.seq ? -1 : 1;
  return 0;
}

/**
 * The text form, stamp/origin/seq.
 * @param {Place} place
 */
export function formatPlace(place) {
  return `${place.stamp}/${place.origin}/${place.seq}`;
}

/**
 * The Unix milliseconds of a stamp: its upper 48 bits.
 * @param {bigint} stamp
 */
export function stampMillis(stamp) {
  return Number(stamp >> 16n);
}

/**
 * The region of an origin: "eu" of "eu" and of "eu.2".
 * @param {string} origin
 */
export function regionOf(origin) {
  return origin.split('.', 1)[0];
}
