// @ts-check
// Keeping up: the conversation list, pulls of what is missed, gaps, and the own delivered and read cursors.

import { AntipodeError } from './codes.js';
import { Conversation } from './conversation.js';
import { coversAll, formatCursor, mergeCursors, parseCursor } from './cursor.js';
import { pause } from './emitter.js';
import { Gaps } from './gaps.js';
import { Pages } from './pages.js';
import { regionOf } from './place.js';
import { backOffMs } from './policy.js';

/**
 * @typedef {object} SyncDeps
 * @property {string} uid
 * @property {() => import('./policy.js').Policy} policy
 * @property {() => string} region                     the region that serves now
 * @property {() => boolean} online
 * @property {(method: string, key: string, body: object, signal?: AbortSignal) => Promise<any>} call  taken back when the signal aborts
 * @property {(region: string, body: object, signal: AbortSignal) => Promise<any>} pullFrom  HTTP /v1/pull of a gateway there
 * @property {(conversation: Conversation) => void} changed
 */

const PAGE = 200;
/** Pulls and marks under way at once, of all conversations: a gateway bounds the calls of a conn. */
const PARALLEL = 4;
const AGAIN_ATTEMPTS = 8;
const LEARN_ATTEMPTS = 6;
const MARK_CAP_MS = 30000;

export class Sync {
  /** @type {Map<string, Conversation>} */
  conversations = new Map();
  #listCursor = '';
  /** the whole list was had once */
  #listed = false;
  /** @type {Promise<void> | undefined} */
  #refreshing;
  #again = false;
  /** @type {Map<string, Promise<void>>} */
  #pulling = new Map();
  /** @type {Set<string>} */
  #repulling = new Set();
  /** @type {Set<string>} */
  #learning = new Set();
  /** @type {Map<string, {at: number, attempt: number, timer: ReturnType<typeof setTimeout> | undefined}>} */
  #marks = new Map();
  /** @type {Gaps} */
  #gaps;
  #records = new Pages(PAGE);
  #rows = new Pages(PAGE);
  #slots = PARALLEL;
  /** @type {(() => void)[]} */
  #waiting = [];

  /** @param {SyncDeps} deps @param {AbortSignal} signal  ends everything */
  constructor(deps, signal) {
    this.deps = deps;
    this.signal = signal;
    this.#gaps = new Gaps(
      {
        policy: deps.policy,
        region: deps.region,
        pull: (region, conversation, upto, ended) => this.#ask(region, this.#question(conversation, upto), ended),
        take: (conversation, page) => this.#take(conversation, page),
        ended: (conversation) => {
          this.#settle(conversation);
          this.#mark(conversation);
        },
      },
      signal,
    );
    signal.addEventListener('abort', () => {
      for (const { timer } of this.#marks.values()) clearTimeout(timer);
    });
  }

  /** @param {string} id */
  conversation(id) {
    let conversation = this.conversations.get(id);
    if (!conversation) {
      conversation = new Conversation(id, this.deps.uid);
      conversation.timeline.settled = this.#listed; // not in the list: it has no past
      this.conversations.set(id, conversation);
    }
    return conversation;
  }

  /**
   * Asks what changed since the last list and pulls what is missed. Calls that come while one runs make it run once more.
   * @returns {Promise<void>}
   */
  refresh() {
    if (this.#refreshing) {
      this.#again = true;
      return this.#refreshing;
    }
    this.#refreshing = (async () => {
      do {
        this.#again = false;
        for (let more = true; more; ) {
          const region = this.deps.region();
          const frame = this.deps.policy().maxFrame;
          const answer = await this.deps.call('list', '', { cursor: this.#listCursor, limit: this.#rows.limit(frame) });
          this.#rows.came(answer.rows?.length ?? 0, answer, frame);
          for (const row of answer.rows ?? []) {
            const fresh = !this.conversations.has(row.conversation);
            const conversation = this.conversation(row.conversation);
            conversation.takeRow(row, region);
            if (fresh) conversation.timeline.settled = false; // its past comes now
            this.deps.changed(conversation);
            if (!this.#settle(conversation)) void this.pull(row.conversation).catch(() => {}); // the next refresh finds it still missing
          }
          // The cursor moves only with its page taken, so a lost answer is asked for again.
          this.#listCursor = answer.cursor ?? this.#listCursor;
          more = answer.more ?? false;
        }
        this.#listed = true;
        for (const conversation of this.conversations.values()) {
          this.#settle(conversation);
          if (conversation.again.size > 0) void this.#pullAgain(conversation);
        }
      } while (this.#again);
    })().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  /** Everything listed is here: what comes before it from now on is late. @param {Conversation} conversation */
  #settle({ timeline, head }) {
    if (!coversAll(timeline.cursor, head)) return false;
    if (timeline.gaps().length === 0) timeline.settled = true;
    return true;
  }

  /** A new connection without resume: heads that were listed but not pulled are asked for again. */
  restart() {
    for (const conversation of this.conversations.values()) {
      if (!coversAll(conversation.timeline.cursor, conversation.head)) void this.pull(conversation.id).catch(() => {});
    }
    return this.refresh();
  }

  /**
   * Pulls everything of a conversation that the region here holds, and what is listed meanwhile. One pull per conversation at a
   * time.
   * @param {string} id
   * @returns {Promise<void>}
   */
  pull(id) {
    const running = this.#pulling.get(id);
    if (running) return running;
    const pulled = this.#slot(async () => {
      const conversation = this.conversation(id);
      for (let more = true, attempt = 0; more; ) {
        try {
          const region = this.deps.region();
          const { head } = conversation;
          more = this.#take(conversation, await this.deps.call('pull', id, this.#question(conversation)));
          if (!more) conversation.ended(region);
          more ||= !coversAll(mergeCursors(head, conversation.timeline.cursor), conversation.head); // listed since it was asked
          attempt = 0;
        } catch (error) {
          const stop = error instanceof AntipodeError && error.action === 'stop';
          if (stop || attempt >= 5 || !this.deps.online()) throw error;
          await pause(backOffMs(this.deps.policy(), attempt++), this.signal);
        }
      }
      conversation.timeline.settled = true;
      this.deps.changed(conversation);
      this.#mark(conversation);
    }).finally(() => this.#pulling.delete(id));
    this.#pulling.set(id, pulled);
    return pulled;
  }

  /**
   * Takes the body of a push: a record or a receipt.
   * @param {any} event
   */
  takeEvent(event) {
    if (event.record) {
      const fresh = !this.conversations.has(event.record.conversation);
      const conversation = this.conversation(event.record.conversation);
      if (conversation.hearOfMe([event.record])) void this.#pullAgain(conversation);
      if (!conversation.add(event.record)) return; // a notify and the apply brought it both: the second is dropped
      if (fresh && conversation.timeline.gaps().length > 0) conversation.timeline.settled = false; // it has a past after all
      this.deps.changed(conversation);
      if (event.record.sender !== this.deps.uid) this.#mark(conversation);
      if (!conversation.titled) void this.learn(conversation);
      if (conversation.timeline.gaps().length > 0) this.#gaps.fill(conversation);
    } else if (event.receipt) {
      const conversation = this.conversations.get(event.receipt.conversation);
      if (!conversation) return;
      conversation.takeReceipt(event.receipt);
      this.deps.changed(conversation);
    }
  }

  /**
   * What is shown is read.
   * @param {string} id
   */
  markRead(id) {
    const conversation = this.conversations.get(id);
    if (!conversation?.readAll()) return;
    this.deps.changed(conversation);
    this.#mark(conversation);
  }

  /**
   * Asks for everyone's cursors and the members.
   * @param {string} id
   */
  async inspect(id) {
    const conversation = this.conversation(id);
    const [receipts] = await Promise.all([
      this.deps.call('receipts', id, { conversation: id }),
      conversation.isGroup ? this.members(id) : undefined,
    ]);
    for (const receipt of receipts.receipts ?? []) conversation.takeReceipt(receipt);
    this.deps.changed(conversation);
  }

  /**
   * Asks for title and members, again if this region has not heard of the group yet: a new member gets no record that
   * tells the title, and a notify may be ahead of the region.
   * @param {Conversation} conversation
   */
  async learn(conversation) {
    const { id } = conversation;
    if (this.#learning.has(id)) return;
    this.#learning.add(id);
    try {
      for (let attempt = 0; attempt < LEARN_ATTEMPTS && !(conversation.titled && conversation.membersKnown); attempt++) {
        try {
          await this.members(id);
          if (!conversation.membersKnown) await pause(backOffMs(this.deps.policy(), attempt), this.signal); // an older answer
        } catch (error) {
          if (!(error instanceof AntipodeError) || error.action === 'stop') return;
          await pause(backOffMs(this.deps.policy(), attempt, error.retryAfterMs), this.signal);
        }
      }
    } catch {
      // stopped
    } finally {
      this.#learning.delete(id);
    }
  }

  /** @param {string} id */
  async members(id) {
    const conversation = this.conversation(id);
    const answer = await this.deps.call('members', id, { conversation: id });
    conversation.setTitle(answer.title ?? '');
    if (conversation.isGroup) conversation.setMembers(answer.members ?? [], answer.changes);
    this.deps.changed(conversation);
    return conversation.members;
  }

  /** @param {Conversation} conversation */
  #question({ id, timeline }, upto = '') {
    return { conversation: id, cursor: formatCursor(timeline.cursor), limit: this.#limit(), ...(upto && { upto }) };
  }

  /** Records of a page. */
  #limit() {
    return this.#records.limit(this.deps.policy().maxFrame);
  }

  /**
   * Pulls one page from a region: over the connection from the own one, else over HTTP.
   * @param {string} region @param {{conversation: string, cursor: string, limit: number, upto?: string}} question @param {AbortSignal} signal  takes the call back
   */
  #ask(region, question, signal) {
    return region === this.deps.region() ? this.deps.call('pull', question.conversation, question, signal) : this.deps.pullFrom(region, question, signal);
  }

  /**
   * Takes a page: its records first, then the cursor that covers them and the hidden ones.
   * @param {Conversation} conversation @param {any} page @param {boolean} [again]  of a pull from the beginning
   * @returns {boolean} whether there is more
   */
  #take(conversation, page, again = false) {
    this.#records.came((page.records?.length ?? 0) + (page.repeats?.length ?? 0), page, this.deps.policy().maxFrame);
    if (conversation.hearOfMe(page.records ?? [])) void this.#pullAgain(conversation);
    for (const record of page.records ?? []) conversation.add(record, again);
    for (const repeat of page.repeats ?? []) conversation.timeline.addRepeat(repeat, again);
    conversation.timeline.cover(parseCursor(page.cursor));
    this.deps.changed(conversation);
    return page.more ?? false;
  }

  /**
   * Pulls a conversation from its beginning, because an addition of the caller was heard of that stands before the one that was
   * known: from the own region if it has heard of the addition, else from where it was made. What does not succeed is tried
   * again after the next list.
   * @param {Conversation} conversation
   */
  async #pullAgain(conversation) {
    const { id } = conversation;
    if (this.#repulling.has(id)) return;
    this.#repulling.add(id);
    try {
      for (let attempt = 0; attempt < AGAIN_ATTEMPTS && conversation.again.size > 0; attempt++) {
        const want = conversation.again;
        const own = this.deps.region();
        const others = [...new Set([...want.keys()].map(regionOf))].filter((region) => region !== own);
        let covered = false;
        for (const region of [own, ...others]) {
          covered = await this.#slot(() => this.#pullAll(conversation, region, want)).catch(() => false);
          if (covered) break;
        }
        if (covered && coversAll(want, conversation.again)) conversation.again = new Map(); // no further one was heard of meanwhile
        else await pause(backOffMs(this.deps.policy(), attempt), this.signal);
      }
    } catch {
      // stopped
    } finally {
      this.#repulling.delete(id);
    }
  }

  /**
   * @param {Conversation} conversation @param {string} region
   * @param {import('./cursor.js').Cursor} want
   * @returns {Promise<boolean>} whether the region has what was covered, and has heard of the additions
   */
  async #pullAll(conversation, region, want) {
    const target = mergeCursors(want, conversation.timeline.cursor); // all that was covered may have been hidden
    let cursor = '';
    for (;;) {
      const page = await this.#ask(region, { conversation: conversation.id, cursor, limit: this.#limit() }, this.signal);
      const more = this.#take(conversation, page, true);
      if (!more) conversation.ended(region);
      if (!more || page.cursor === cursor) return coversAll(parseCursor(page.cursor), target);
      cursor = page.cursor ?? '';
    }
  }

  /**
   * Tells the server how far this user is, at most once a second, and repeats it until the server has taken all of it: it
   * cuts off what its region has not applied yet.
   * @param {Conversation} conversation
   */
  #mark(conversation) {
    const { id } = conversation;
    let mark = this.#marks.get(id);
    if (!mark) this.#marks.set(id, (mark = { at: -Infinity, attempt: 0, timer: undefined }));
    if (mark.timer !== undefined || this.#marked(conversation)) return;
    const state = mark;
    const every = Math.min(MARK_CAP_MS, this.deps.policy().markInterval * 2 ** state.attempt);
    const wait = Math.max(30, state.at + every - performance.now());
    state.timer = setTimeout(async () => {
      state.at = performance.now();
      try {
        if (this.deps.online() && conversation.member) {
          const answer = await this.#slot(() =>
            this.deps.call('mark', id, { conversation: id, delivered: formatCursor(conversation.timeline.cursor), read: formatCursor(conversation.read) }),
          );
          conversation.takeOwn(answer.delivered, answer.read);
        }
        state.attempt = this.#marked(conversation) ? 0 : state.attempt + 1;
      } catch (error) {
        state.attempt = error instanceof AntipodeError && error.action === 'stop' ? 0 : state.attempt + 1;
        if (state.attempt === 0) return; // refused: the next record tries again
      } finally {
        state.timer = undefined;
      }
      if (state.attempt > 0) this.#mark(conversation);
    }, wait);
  }

  /** Repeats every mark that the server has not taken: called when a connection is up. */
  remark() {
    for (const conversation of this.conversations.values()) {
      const mark = this.#marks.get(conversation.id);
      if (mark) mark.attempt = 0;
      this.#mark(conversation);
    }
  }

  /** @param {Conversation} conversation */
  #marked({ timeline, read, markedRead, markedDelivered }) {
    return coversAll(markedRead, read) && coversAll(markedDelivered, timeline.cursor);
  }

  /**
   * @template Result
   * @param {() => Promise<Result>} work
   * @returns {Promise<Result>}
   */
  async #slot(work) {
    if (this.#slots === 0) await new Promise((go) => this.#waiting.push(() => go(undefined)));
    else this.#slots--;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#slots++;
    }
  }
}
