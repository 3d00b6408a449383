// @ts-check
// What a client knows of one conversation: its timeline, its members, who has got and read what. No network.

import { covers, coversAll, mergeCursors, parseCursor } from './cursor.js';
import { directMembers } from './ids.js';
import { Membership } from './membership.js';
import { comparePlaces } from './place.js';
import { Timeline } from './timeline.js';

/** @typedef {import('./cursor.js').Cursor} Cursor */
/** @typedef {import('./timeline.js').Entry} Entry */
/** @typedef {{conversation?: string, uid?: string, delivered?: string, read?: string}} WireReceipt */

/**
 * @typedef {object} WireRow
 * @property {string} conversation
 * @property {string} [title]
 * @property {string} [head]
 * @property {import('./timeline.js').WireRecord} [last]
 * @property {number} [unread]
 * @property {string} [delivered]
 * @property {string} [read]
 * @property {boolean} [member]
 */

/** @typedef {'sending' | 'failed' | 'accepted' | 'delivered' | 'read'} Tick */

export class Conversation {
  /** @param {string} id @param {string} uid  whose view this is */
  constructor(id, uid) {
    this.id = id;
    this.uid = uid;
    this.timeline = new Timeline(id);
    this.#memberList = directMembers(id);
    /** @type {Cursor} own read cursor, as far as this client wants it */
    this.read = new Map();
    /** @type {Cursor} own cursors as the server took them */
    this.markedRead = new Map();
    /** @type {Cursor} */
    this.markedDelivered = new Map();
    /** @type {Map<string, {delivered: Cursor, read: Cursor}>} of the others */
    this.receipts = new Map();
    /** @type {Cursor} what a region said it holds */
    this.head = new Map();
    /** true while the caller belongs to it */
    this.member = true;
    /** a list of this region said that the caller does not */
    this.left = '';
    this.mine = new Membership(uid);
    /** @type {Cursor} of additions of the caller that stand before one that was known: to be pulled from the beginning */
    this.again = new Map();
    this.membersKnown = this.#memberList.length > 0;
    this.#listedUnread = 0;
  }

  /** @type {string[]} */
  #memberList;
  #title = '';
  /** @type {import('./place.js').Place | undefined} */
  #titlePlace;
  /** @type {import('./place.js').Place | undefined} of the last change to the own membership */
  #memberPlace;
  /** @type {Cursor} the changes of membership that were heard of */
  #changes = new Map();
  #listedUnread;

  get isGroup() {
    return !this.id.startsWith('d:') && !this.id.startsWith('u:');
  }

  /** Sorted; of groups, as last asked. */
  get members() {
    return this.#memberList;
  }

  /**
   * Takes a region's answer, unless it is older than a change that was heard of: pushes may be ahead of the region.
   * @param {string[]} uids @param {string} [changes]  that are counted in, of regions that say so
   */
  setMembers(uids, changes) {
    const older = changes !== undefined && !coversAll(parseCursor(changes), this.#changes);
    if (older) return;
    this.#memberList = [...uids].sort();
    this.membersKnown = true;
    if (this.isGroup && (changes !== undefined || !this.#memberPlace)) this.member = this.#memberList.includes(this.uid);
  }

  /** Everyone but the caller. */
  get others() {
    return this.#memberList.filter((uid) => uid !== this.uid);
  }

  get title() {
    if (this.isGroup) return this.#title || 'Untitled group';
    return this.others[0] ?? 'Note to self';
  }

  /** Whether the title is known; that of a direct conversation always is. */
  get titled() {
    return !this.isGroup || this.#title !== '';
  }

  /** @param {string} title */
  setTitle(title) {
    if (title) this.#title = title;
  }

  /** Before everything is pulled the server's count is shown, then its own. */
  get unread() {
    return this.timeline.settled ? this.timeline.unread(this.uid, this.read) : this.#listedUnread;
  }

  /** The last message, or what last happened. @returns {Entry | undefined} */
  get last() {
    const { entries } = this.timeline;
    return entries.findLast((entry) => entry.kind === 'message') ?? entries.at(-1);
  }

  /**
   * Takes a row of the conversation list.
   * @param {WireRow} row @param {string} [region]  whose list
   */
  takeRow(row, region = '') {
    this.setTitle(row.title ?? '');
    this.head = mergeCursors(this.head, parseCursor(row.head));
    this.#listedUnread = row.unread ?? 0;
    this.takeOwn(row.delivered, row.read);
    if (!this.isGroup) return;
    const { origin, seq } = this.#memberPlace ?? { origin: '', seq: 0n };
    if (origin && !covers(parseCursor(row.head), origin, seq)) return; // the row is older than what was heard
    this.member = row.member ?? false;
    this.left = this.member ? '' : region;
  }

  /**
   * A region has given everything that it has. If it is the one that said that the caller is no member, what is missing will not
   * come: an earlier list or a push promised what now lies past the removal.
   * @param {string} region
   */
  ended(region) {
    if (!this.left || this.left !== region) return;
    this.timeline.unwant();
    this.head = this.timeline.cursor;
    this.again.clear();
  }

  /**
   * Takes what the records of a push or page say of the own membership.
   * @param {import('./timeline.js').WireRecord[]} records
   * @returns {boolean} whether the conversation is to be pulled from the beginning
   */
  hearOfMe(records) {
    if (!this.isGroup) return false;
    const { added, earlier } = this.mine.hear(records);
    if (added) this.left = '';
    for (const { origin, seq } of earlier) this.again = mergeCursors(this.again, new Map([[origin, seq]]));
    return earlier.length > 0;
  }

  /**
   * Takes own cursors from the server: another device may have read more.
   * @param {string | undefined} delivered @param {string | undefined} read
   */
  takeOwn(delivered, read) {
    this.markedDelivered = mergeCursors(this.markedDelivered, parseCursor(delivered));
    this.markedRead = mergeCursors(this.markedRead, parseCursor(read));
    this.read = mergeCursors(this.read, this.markedRead);
  }

  /** @param {WireReceipt} receipt */
  takeReceipt(receipt) {
    const uid = receipt.uid ?? '';
    if (uid === this.uid) return this.takeOwn(receipt.delivered, receipt.read);
    const had = this.receipts.get(uid);
    const read = mergeCursors(had?.read ?? new Map(), parseCursor(receipt.read));
    const delivered = mergeCursors(had?.delivered ?? new Map(), parseCursor(receipt.delivered));
    this.receipts.set(uid, { read, delivered: mergeCursors(delivered, read) }); // what was read was delivered
  }

  /**
   * Takes a record, and what it says about title and members. The title with the highest place wins.
   * @param {import('./timeline.js').WireRecord} record @param {boolean} [again]  of a pull from the beginning
   * @returns {boolean} false if it was had
   */
  add(record, again = false) {
    if (!this.timeline.add(record, again)) return false;
    const place = { stamp: BigInt(record.stamp ?? 0), origin: record.origin ?? '', seq: BigInt(record.seq ?? 0) };
    const title = record.settings?.title || record.create?.title;
    if (title && (!this.#titlePlace || comparePlaces(this.#titlePlace, place) < 0)) {
      this.#titlePlace = place;
      this.#title = title;
    }
    const joins = record.member?.add?.includes(this.uid) ?? false;
    const leaves = record.member?.remove?.includes(this.uid) ?? false;
    if ((joins || leaves) && (!this.#memberPlace || comparePlaces(this.#memberPlace, place) < 0)) {
      this.#memberPlace = place;
      this.member = joins;
    }
    if (!record.create && !record.member) return true;
    this.#changes = mergeCursors(this.#changes, new Map([[place.origin, place.seq]]));
    this.membersKnown = false; // ask again: the order of changes is the server's business
    return true;
  }

  /** Everything that is here counts as read. @returns {boolean} whether that is news */
  readAll() {
    const before = this.read;
    this.read = mergeCursors(this.read, this.timeline.cursor);
    for (const [origin, seq] of this.read) if (!covers(before, origin, seq)) return true;
    return false;
  }

  /**
   * How far an own message is: read or delivered when that is so for everyone else, with the counts.
   * @param {Entry} entry
   * @returns {{tick: Tick, delivered: string[], read: string[], others: string[]}}
   */
  progress(entry) {
    const others = this.others;
    const delivered = [];
    const read = [];
    for (const uid of others) {
      const receipt = this.receipts.get(uid);
      if (!receipt) continue;
      if (this.timeline.coveredBy(entry, receipt.delivered)) delivered.push(uid);
      if (this.timeline.coveredBy(entry, receipt.read)) read.push(uid);
    }
    /** @type {Tick} */
    let tick = entry.state;
    if (tick === 'accepted' && others.length > 0) {
      if (read.length === others.length) tick = 'read';
      else if (delivered.length === others.length) tick = 'delivered';
    }
    return { tick, delivered, read, others };
  }
}
