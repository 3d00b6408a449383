// @ts-check
// The timeline of one conversation as a client holds it: which records it has (a cursor, and what came beyond a gap),
// and the visible entries in the order of places. Pure: values in, values out; no clock, no network.
//
//   pushes ──┐                       ┌─ cursor      what is had without a gap
//            ├─▶ add / addRepeat ──▶ ├─ beyond      had, but past a gap: the gap must be pulled
//   pulls ───┘   then cover          └─ entries     one per id, at the lowest place of the id's records

import { covers, coversAll, mergeCursors } from './cursor.js';
import { comparePlaces } from './place.js';

/**
 * A record as the wire gives it (protobuf JSON: 64-bit numbers are texts).
 * @typedef {object} WireRecord
 * @property {string} conversation
 * @property {string} [kind]
 * @property {number} [version]
 * @property {string} [sender]
 * @property {string} [clientId]
 * @property {string} [stamp]
 * @property {string} [origin]
 * @property {string} [seq]
 * @property {{text?: string}} [text]
 * @property {{title?: string, members?: string[]}} [create]
 * @property {{add?: string[], remove?: string[]}} [member]
 * @property {{title?: string}} [settings]
 * @property {string} [trace]
 */

/** @typedef {{sender?: string, clientId?: string, stamp?: string, origin?: string, seq?: string}} WireRepeat */
/** @typedef {import('./place.js').Place} Place */
/** @typedef {import('./cursor.js').Cursor} Cursor */

/**
 * One visible thing: a message, or a line that says what happened to the group. A sent message is an entry from the
 * moment it is written; its record joins it later.
 * @typedef {object} Entry
 * @property {string} id              sender/client_id
 * @property {string} sender
 * @property {string} clientId
 * @property {'message' | 'create' | 'member' | 'settings'} kind
 * @property {string} text            of messages
 * @property {WireRecord} [record]    the record that carries it; absent until a sent message comes back
 * @property {Place} [place]          the lowest place of the id's records; of an acked one without record, seq is 0
 * @property {Map<string, bigint[]>} seqs   every record of this id that is had, by origin
 * @property {boolean} late           it took a place before something that was shown already
 * @property {'sending' | 'accepted' | 'failed'} state
 * @property {string} [failure]       why it failed, for people
 * @property {boolean} [global]       of own messages sent with ack global: a peer holds it; false: this region only
 * @property {string} trace           traceparent or ''
 */

/** @typedef {{origin: string, from: bigint, to: bigint}} Gap  both inclusive */

const KINDS = new Set(['message', 'create', 'member', 'settings']);

/** @param {string | undefined} text */
const big = (text) => BigInt(text ?? 0);

export class Timeline {
  /** @param {string} conversation */
  constructor(conversation) {
    this.conversation = conversation;
    /** @type {Cursor} everything up to here is had */
    this.cursor = new Map();
    /** @type {Map<string, Set<bigint>>} had beyond a gap, by origin */
    this.beyond = new Map();
    /** @type {Entry[]} in display order: placed ones by place, then what is still being sent */
    this.entries = [];
    /** @type {Map<string, Entry>} */
    this.byID = new Map();
    /** @type {Map<string, {place: Place}[]>} repeats of ids whose message is not here yet */
    this.waiting = new Map();
    /** the highest stamp had; named as seen when sending */
    this.stamp = 0n;
    /** true once everything a region held was pulled: from then on an earlier place is a late arrival */
    this.settled = false;
  }

  /**
   * Tells whether the record (origin, seq) is had.
   * @param {string} origin @param {bigint} seq
   */
  has(origin, seq) {
    return covers(this.cursor, origin, seq) || (this.beyond.get(origin)?.has(seq) ?? false);
  }

  /**
   * Takes a record from a push or a pull.
   * @param {WireRecord} record @param {boolean} [again]  of a pull from the beginning: it may have been covered while it was hidden
   * @returns {boolean} false: it was had already, and nothing changed
   */
  add(record, again = false) {
    const place = { stamp: big(record.stamp), origin: record.origin ?? '', seq: big(record.seq) };
    if (!this.#take(place) && !again) return false;
    // A kind or version that the server does not know comes without content: its seq counts, it is shown to no one.
    const content = record.text ?? record.create ?? record.member ?? record.settings;
    if (!content || !KINDS.has(record.kind ?? '')) return true;
    const id = `${record.sender}/${record.clientId}`;
    let entry = this.byID.get(id);
    if (!entry) {
      entry = this.#insert({
        id,
        sender: record.sender ?? '',
        clientId: record.clientId ?? '',
        kind: /** @type {Entry['kind']} */ (record.kind),
        text: record.text?.text ?? '',
        seqs: new Map(),
        late: false,
        state: 'accepted',
        trace: record.trace ?? '',
      });
    }
    entry.record ??= record;
    entry.state = 'accepted';
    delete entry.failure;
    this.#placeAt(entry, place);
    for (const repeat of this.waiting.get(id) ?? []) this.#placeAt(entry, repeat.place);
    this.waiting.delete(id);
    return true;
  }

  /**
   * Takes a further record with the id of a visible one: the message shows at the lowest place of its records.
   * @param {WireRepeat} repeat @param {boolean} [again]  as of add
   */
  addRepeat(repeat, again = false) {
    const place = { stamp: big(repeat.stamp), origin: repeat.origin ?? '', seq: big(repeat.seq) };
    if (!this.#take(place) && !again) return false;
    const id = `${repeat.sender}/${repeat.clientId}`;
    const entry = this.byID.get(id);
    if (entry) this.#placeAt(entry, place);
    else this.waiting.set(id, [...(this.waiting.get(id) ?? []), { place }]);
    return true;
  }

  /**
   * Takes the cursor of a pull, after its records: it covers hidden records too.
   * @param {Cursor} cursor
   */
  cover(cursor) {
    this.cursor = mergeCursors(this.cursor, cursor);
    for (const origin of this.beyond.keys()) this.#close(origin);
  }

  /** Forgets what was had past a gap that will not be filled: the user was removed. What shows stays. */
  unwant() {
    this.beyond.clear();
  }

  /**
   * What is missing below what is had. Empty when there is no gap.
   * @returns {Gap[]}
   */
  gaps() {
    /** @type {Gap[]} */
    const gaps = [];
    for (const [origin, seqs] of this.beyond) {
      let from = (this.cursor.get(origin) ?? 0n) + 1n;
      for (const seq of [...seqs].sort((a, b) => (a < b ? -1 : 1))) {
        if (seq > from) gaps.push({ origin, from, to: seq - 1n });
        from = seq + 1n;
      }
    }
    return gaps;
  }

  /**
   * Everything known to exist: the cursor and the highest seqs beyond gaps.
   * @returns {Cursor}
   */
  known() {
    const known = new Map(this.cursor);
    for (const [origin, seqs] of this.beyond) for (const seq of seqs) if (!covers(known, origin, seq)) known.set(origin, seq);
    return known;
  }

  /**
   * A message that is being sent: it shows at the end until its ack gives it a place.
   * @param {{sender: string, clientId: string, text: string, trace: string}} sent
   */
  addSending(sent) {
    const id = `${sent.sender}/${sent.clientId}`;
    const had = this.byID.get(id);
    if (had) return had;
    return this.#insert({ ...sent, id, kind: 'message', seqs: new Map(), late: false, state: 'sending' });
  }

  /**
   * The ack of a sent message: stamp and origin are known, the seq comes with its record.
   * @param {string} id @param {{stamp?: string, origin?: string, global?: boolean}} ack @param {boolean} wantedGlobal
   */
  accepted(id, ack, wantedGlobal) {
    const entry = this.byID.get(id);
    if (!entry) return;
    entry.state = 'accepted';
    delete entry.failure;
    if (wantedGlobal) entry.global = ack.global ?? false;
    const stamp = big(ack.stamp);
    if (stamp > this.stamp) this.stamp = stamp;
    if (!entry.record) this.#move(entry, { stamp, origin: ack.origin ?? '', seq: 0n });
  }

  /**
   * A sent message was refused for good.
   * @param {string} id @param {string} why
   */
  failed(id, why) {
    const entry = this.byID.get(id);
    if (entry && !entry.record) Object.assign(entry, { state: 'failed', failure: why });
  }

  /**
   * Forgets a sent message that never was accepted.
   * @param {string} id
   */
  forget(id) {
    const entry = this.byID.get(id);
    if (!entry || entry.record || entry.place) return;
    this.byID.delete(id);
    this.entries = this.entries.filter((e) => e !== entry);
  }

  /**
   * Tells whether a cursor covers an entry: any record of its id will do.
   * @param {Entry} entry @param {Cursor} cursor
   */
  coveredBy(entry, cursor) {
    for (const [origin, seqs] of entry.seqs) for (const seq of seqs) if (covers(cursor, origin, seq)) return true;
    return false;
  }

  /**
   * Messages of others that a read cursor does not cover, counted to 100.
   * @param {string} reader @param {Cursor} read
   */
  unread(reader, read) {
    if (coversAll(read, this.known())) return 0;
    let count = 0;
    for (const entry of this.entries) {
      if (entry.kind === 'message' && entry.sender !== reader && !this.coveredBy(entry, read) && ++count === 100) break;
    }
    return count;
  }

  /**
   * Notes that a record is had. False: it was already.
   * @param {Place} place
   */
  #take(place) {
    if (!place.origin || place.seq <= 0n || this.has(place.origin, place.seq)) return false;
    if (place.stamp > this.stamp) this.stamp = place.stamp;
    let seqs = this.beyond.get(place.origin);
    if (!seqs) this.beyond.set(place.origin, (seqs = new Set()));
    seqs.add(place.seq);
    this.#close(place.origin);
    return true;
  }

  /**
   * Moves the cursor of an origin over what follows it without a gap.
   * @param {string} origin
   */
  #close(origin) {
    const seqs = this.beyond.get(origin);
    if (!seqs) return;
    let high = this.cursor.get(origin) ?? 0n;
    for (const seq of seqs) if (seq <= high) seqs.delete(seq);
    while (seqs.delete(high + 1n)) high += 1n;
    if (high > 0n) this.cursor.set(origin, high);
    if (seqs.size === 0) this.beyond.delete(origin);
  }

  /** @param {Entry} entry */
  #insert(entry) {
    this.byID.set(entry.id, entry);
    this.entries.push(entry);
    return entry;
  }

  /**
   * Gives an entry the place of one of its records, if it is the lowest.
   * @param {Entry} entry @param {Place} place
   */
  #placeAt(entry, place) {
    if (entry.seqs.get(place.origin)?.includes(place.seq)) return; // it is here
    entry.seqs.set(place.origin, [...(entry.seqs.get(place.origin) ?? []), place.seq]);
    const first = !entry.place || entry.place.seq === 0n; // never placed, or by its ack alone
    if (first || comparePlaces(place, /** @type {Place} */ (entry.place)) < 0) this.#move(entry, place);
  }

  /** @param {Entry} entry @param {Place} place */
  #move(entry, place) {
    const had = entry.place !== undefined;
    entry.place = place;
    const at = this.entries.lastIndexOf(entry); // near the end, nearly always
    if (at >= 0) this.entries.splice(at, 1);
    let low = 0;
    let high = this.entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = this.entries[middle].place;
      if (other && comparePlaces(other, place) < 0) low = middle + 1;
      else high = middle;
    }
    this.entries.splice(low, 0, entry);
    // Late: something that has a place was on display after it. What is still being sent does not count.
    if (!had && this.settled && this.entries[low + 1]?.place) entry.late = true;
  }
}
