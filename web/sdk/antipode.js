// @ts-check
// The browser client of Antipode. It does what docs/protocol.md asks of a client:
//
//   ipconf ──▶ race the best few gateways ──▶ hello ──▶ welcome ──▶ list, pull what is missed ──▶ pushes
//     ▲                                                                                            │
//     └────────────── back off with jitter, as the code of the close says ◀────────────────────────┘
//
//   const client = new Client({ uid: 'ann', ipconf: ['http://127.0.0.1:7410'], token: fetchToken });
//   client.on('changed', (conversation) => draw(conversation));
//   client.start();
//   client.send(direct('ann', 'bob'), 'hello');

import { AntipodeError } from './codes.js';
import { Emitter, pause } from './emitter.js';
import { Endpoints } from './endpoints.js';
import { HTTPCalls } from './http.js';
import { traceparent, uuidv7 } from './ids.js';
import { Links } from './links.js';
import { watchNetwork } from './network.js';
import { Outbox } from './outbox.js';
import { defaultShelf, Store, takeSlot } from './store.js';
import { Submits } from './submits.js';
import { Sync } from './sync.js';
import { Tokens } from './tokens.js';
import { Typing } from './typing.js';

export { canVerify } from './catalogue.js';
export { AntipodeError } from './codes.js';
export { direct, directMembers, isUID, traceID } from './ids.js';
export { formatPlace, regionOf, stampMillis } from './place.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */
/** @typedef {import('./timeline.js').Entry} Entry */

/**
 * @typedef {object} Options
 * @property {string} uid
 * @property {string[]} ipconf           base URLs, the preferred region's first
 * @property {string} [region]           the preferred region; empty: the nearest
 * @property {string} [home]             the region that the user is at home in: it counts as three times as near
 * @property {() => Promise<{token: string, expiresMs: number}>} token  called when none is held or it has expired
 * @property {Record<string, string>} [catalogueKeys]  public keys in base64 (raw Ed25519), by id: only gateways of a catalogue that one of
 *                                       them signed are used. A browser may lack Ed25519 (canVerify): then no list is taken
 * @property {string[]} [certificates]   of gateways that no authority vouches for, SHA-256 in base64: WebTransport takes no others then
 * @property {import('./store.js').Shelf} [shelf]
 * @property {string} [agent]            name and version, for operators
 */

/**
 * @typedef {object} State
 * @property {'connecting' | 'online' | 'waiting' | 'stopped'} phase
 * @property {string} gateway
 * @property {string} region
 * @property {number} rttMs              0: not measured yet
 * @property {number} retryAtMs          of waiting: when the next try begins (Date.now clock)
 * @property {'' | 'WebSocket' | 'WebTransport' | 'long poll'} carrier  of online: what carries frames
 * @property {boolean} polling           of connecting and waiting: not even a long poll can be had, so calls go over HTTP
 * @property {AntipodeError | undefined} error  why it is not online
 */

/** For a call's reply. It exceeds the servers' deadline for global acks. */
const CALL_MS = 20000;
/** Submits of one conversation under way at once on a socket. Over HTTP there is no order but one at a time. */
const WINDOW = 16;
/** Between two looks while calls go over HTTP. */
const POLL_MS = 4000;
/** An own message whose record did not come back in this time after its ack is pulled. */
const ECHO_MS = 2000;

/** @extends {Emitter<{state: State, changed: Conversation}>} */
export class Client extends Emitter {
  /** @type {State} */
  state = { phase: 'stopped', gateway: '', region: '', rttMs: 0, retryAtMs: 0, carrier: '', polling: false, error: undefined };
  /** bytes; from welcome */
  maxText = 4096;
  /** @type {Endpoints} */
  #endpoints;
  /** @type {HTTPCalls} */
  #http;
  /** @type {Submits} */
  #submits;
  #stopping = new AbortController();
  /** @type {Links} */
  #links;
  /** @type {Store | undefined} */
  #store;
  #clockOffsetMs = 0;
  #origin = '';
  #heardAt = 0;
  /** @type {string} the conversation on display */
  #open = '';

  /** @param {Options} options */
  constructor(options) {
    super();
    this.options = options;
    this.uid = options.uid;
    this.#endpoints = new Endpoints({ ipconf: options.ipconf, catalogueKeys: options.catalogueKeys });
    const tokens = new Tokens(options.token);
    const { uid, region, home, agent, certificates } = options;
    this.#links = new Links({ uid, region, home, agent, certificates, endpoints: this.#endpoints, tokens, patienceMs: CALL_MS }, this.#stopping.signal);
    this.#links.on('state', (change) => this.#set(change));
    this.#links.on('welcome', (welcomed) => this.#welcomed(welcomed));
    this.#links.on('event', (event) => this.#heard(event));
    this.#links.on('ephemeral', (event) => event.typing && this.typing.hear(event.typing));
    this.#links.on('missed', () => void this.sync.refresh().catch(() => {})); // a connection's end; otherwise the fallback asks again
    this.#http = new HTTPCalls(
      {
        gateways: () => this.#endpoints.ordered(),
        failed: (key) => this.#endpoints.failed(key),
        token: () => tokens.fresh(),
        timeoutMs: CALL_MS,
      },
      this.#stopping.signal,
    );
    this.#submits = new Submits(
      {
        policy: () => this.#endpoints.policy,
        now: () => this.now(),
        origin: () => this.#origin,
        seen: (id) => this.sync.conversations.get(id)?.timeline.stamp.toString() ?? '0',
        reachable: () => this.#reachable(),
        send: ({ conversation, body, trace }) => this.#call('submit', conversation, body, { trace }),
        sendTo: (region, { body, trace }) => this.#http.at(region, '/v1/submit', body, this.#stopping.signal, trace),
      },
      this.#stopping.signal,
    );
    this.sync = new Sync(
      {
        uid: options.uid,
        policy: () => this.#endpoints.policy,
        region: () => this.state.region,
        online: () => this.#usable(),
        call: (method, key, body, signal) => this.#call(method, key, body, { signal }),
        pullFrom: (region, body, signal) => this.#http.at(region, '/v1/pull', body, signal),
        changed: (conversation) => this.emit('changed', conversation),
      },
      this.#stopping.signal,
    );
    this.typing = new Typing(
      {
        uid: options.uid,
        tell: (method, key, body) => this.#links.current?.call(method, key, body, { timeoutMs: CALL_MS }) ?? Promise.resolve(),
        changed: (id) => this.emit('changed', this.sync.conversation(id)),
      },
      this.#stopping.signal,
    );
    this.outbox = new Outbox({
      submit: (item) => this.#submit(item),
      window: () => (this.#links.current ? WINDOW : this.state.polling ? 1 : 0),
      now: () => this.now(),
      keep: (list) => this.#store?.keepUnsent(list),
      accepted: (item, response) => this.#accepted(item, response),
      refused: (item, error) => {
        const conversation = this.sync.conversation(item.conversation);
        conversation.timeline.failed(`${this.uid}/${item.clientId}`, error.detail || error.code);
        this.emit('changed', conversation);
      },
    });
  }

  /** The server's clock, Unix ms: client_ids are made on it. */
  now() {
    return Date.now() + this.#clockOffsetMs;
  }

  start() {
    void this.#run().catch((error) => {
      if (!this.#stopping.signal.aborted) this.#stop(error);
    });
  }

  /** Ends the session. A stopped client stays stopped. */
  stop() {
    this.#links.current?.bye();
    this.#stop(new AntipodeError('unavailable', 'stopped'));
  }

  /** Tries again at once if it is waiting, and makes sure of a connection that may be dead. */
  wake() {
    this.#links.wake();
  }

  /**
   * The device is in another network: the connection is made sure of at once, or the next one tried, after a list that an ipconf
   * ranks anew. The client watches the browser's own events; this is for pages that know more.
   */
  networkChanged() {
    this.#links.moved(this.#store);
  }

  /**
   * Of what kind the network is (wifi, cell, 3g…): ipconfs choose the policy by it, timeouts above all. Another kind is another network.
   * @param {string} kind
   */
  setNetwork(kind) {
    if (this.#links.network === kind) return;
    this.#links.network = kind;
    this.networkChanged();
  }

  /** Conversations, the one with the latest message first. @returns {Conversation[]} */
  conversations() {
    /** @param {Conversation} c */
    const at = (c) => c.timeline.stamp;
    return [...this.sync.conversations.values()].sort((a, b) => (at(a) === at(b) ? (a.id < b.id ? -1 : 1) : at(a) > at(b) ? -1 : 1));
  }

  /**
   * Makes a conversation known and shown: it is pulled, and receipts and members are kept fresh while it is the one shown.
   * @param {string} id
   */
  open(id) {
    this.#open = id;
    const conversation = this.sync.conversation(id);
    this.emit('changed', conversation);
    if (this.#links.current) void this.#inspect(id);
    return conversation;
  }

  /** No conversation is shown any more. */
  close() {
    this.#open = '';
  }

  /** Everything shown of it was read. @param {string} id */
  markRead(id) {
    this.sync.markRead(id);
  }

  /**
   * Sends a text. It shows at once and goes out when it can; the entry of the timeline says how far it is.
   * @param {string} id @param {string} text @param {{ack?: 'region' | 'global'}} [options]
   */
  send(id, text, { ack = 'region' } = {}) {
    const conversation = this.sync.conversation(id);
    const message = { conversation: id, clientId: uuidv7(this.now()), text, ack, trace: traceparent() };
    conversation.timeline.addSending({ ...message, sender: this.uid });
    this.emit('changed', conversation);
    this.outbox.add(message);
    this.typing.sent(id);
    return message.clientId;
  }

  /** Sends a refused message once more, under a new id. @param {string} id @param {Entry} entry */
  resend(id, entry) {
    this.sync.conversation(id).timeline.forget(entry.id);
    return this.send(id, entry.text);
  }

  /**
   * Creates a group in the region that serves now (submits.js says what happens if another takes over meanwhile).
   * @param {string} title @param {string[]} members
   * @returns {Promise<string>} its conversation
   */
  createGroup(title, members) {
    return this.#submits.createGroup(title, members);
  }

  /** @param {string} id @param {{add?: string[], remove?: string[]}} change */
  changeMembers(id, change) {
    return this.#submits.submit(id, { member: { add: change.add ?? [], remove: change.remove ?? [] } });
  }

  /** @param {string} id @param {string} title */
  rename(id, title) {
    return this.#submits.submit(id, { settings: { title } });
  }

  /** The members as the region has them now. @param {string} id */
  members(id) {
    return this.sync.members(id);
  }

  async #run() {
    const { signal } = this.#stopping;
    const slot = await takeSlot(this.uid, signal);
    this.#store = new Store(this.uid, slot, this.options.shelf ?? defaultShelf());
    this.#endpoints.options.kept = this.#store;
    for (const message of this.#store.unsent()) {
      const conversation = this.sync.conversation(message.conversation);
      conversation.timeline.addSending({ ...message, sender: this.uid });
      this.outbox.add(message);
      this.emit('changed', conversation);
    }
    void this.#fallback(signal).catch(() => {}); // it ends with the client
    const kind = watchNetwork({ kind: (now) => this.setNetwork(now), changed: () => this.networkChanged() }, signal);
    this.#links.network ||= kind;
    await this.#links.run(this.#store);
  }

  /** @param {{welcome: import('./connection.js').Welcome, clockOffsetMs: number | undefined}} welcomed */
  #welcomed({ welcome, clockOffsetMs }) {
    this.#clockOffsetMs = clockOffsetMs ?? this.#clockOffsetMs;
    this.#origin = welcome.origin || welcome.region || '';
    this.maxText = welcome.maxTextBytes || this.maxText;
    this.#heardAt = performance.now();
    this.outbox.policy = this.#endpoints.policy;
    this.outbox.resend();
    if (!welcome.resumed) {
      void this.sync.restart().catch(() => {}); // the connection's end is told by closed; otherwise the fallback asks again
      if (this.#open) void this.#inspect(this.#open);
    }
    this.sync.remark();
  }

  /** @param {any} event */
  #heard(event) {
    this.#heardAt = performance.now();
    this.sync.takeEvent(event);
    const id = event.record?.conversation;
    if (!id) return;
    this.typing.stop(id, event.record.sender ?? '');
    if (id === this.#open && !this.sync.conversation(id).membersKnown) void this.sync.learn(this.sync.conversation(id));
  }

  /**
   * Hearing nothing for a while, asks: a push may have been lost on the way to the gateway. Without a socket for too long,
   * asks over HTTP.
   * @param {AbortSignal} signal
   */
  async #fallback(signal) {
    let part = 0.8 + 0.4 * Math.random();
    for (;;) {
      const { fallbackPull, pollFallback } = this.#endpoints.policy; // a new list may bring a new policy
      await pause(Math.min(1000, fallbackPull / 4), signal);
      const polling = this.#links.missingMs > pollFallback && this.#endpoints.gateways.length > 0 && !this.#endpoints.heldBack;
      if (polling !== this.state.polling) this.#set({ polling });
      if (!polling && !this.#links.current) continue;
      if (performance.now() - this.#heardAt < (polling ? Math.min(POLL_MS, fallbackPull) : fallbackPull) * part) continue;
      this.#heardAt = performance.now();
      part = 0.8 + 0.4 * Math.random();
      void this.sync.refresh().catch(() => {});
      if (!polling) continue;
      this.outbox.policy = this.#endpoints.policy;
      this.outbox.resend();
      if (this.#open) void this.#inspect(this.#open); // receipts come by push only
    }
  }

  /**
   * @param {string} method @param {string} key @param {object} body
   * @param {{trace?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<any>}
   */
  #call(method, key, body, { trace = '', signal } = {}) {
    if (this.#links.current) return this.#links.current.call(method, key, body, { trace, signal, timeoutMs: CALL_MS });
    if (this.state.polling) return this.#http.call(method, key, body, trace, signal);
    return Promise.reject(new AntipodeError('unavailable', 'not connected'));
  }

  /** @param {import('./outbox.js').Item} item */
  #submit({ conversation, clientId, text, ack, trace }) {
    const seen = this.sync.conversation(conversation).timeline.stamp.toString();
    return this.#call('submit', conversation, { conversation, clientId, ack, seen, text: { text } }, { trace });
  }

  /** @param {import('./outbox.js').Item} item @param {any} response */
  #accepted(item, response) {
    const conversation = this.sync.conversation(item.conversation);
    const id = `${this.uid}/${item.clientId}`;
    conversation.timeline.accepted(id, response, item.ack === 'global');
    this.emit('changed', conversation);
    setTimeout(() => {
      if (!this.#stopping.signal.aborted && !conversation.timeline.byID.get(id)?.record) void this.sync.pull(item.conversation).catch(() => {});
    }, ECHO_MS);
  }

  #usable() {
    return this.#links.current !== undefined || this.state.polling;
  }

  /** Waits until calls can be made, for as long as a call may take. */
  async #reachable() {
    if (this.#usable()) return;
    const ready = new AbortController();
    const off = this.on('state', () => this.#usable() && ready.abort());
    try {
      await pause(CALL_MS, AbortSignal.any([this.#stopping.signal, ready.signal])).catch(() => this.#stopping.signal.throwIfAborted());
    } finally {
      off();
    }
    if (!this.#usable()) throw new AntipodeError('unavailable', 'not connected');
  }

  /** @param {string} id */
  async #inspect(id) {
    try {
      await this.sync.inspect(id);
    } catch {
      // A conversation without a record yet has no receipts; otherwise the next welcome asks again.
    }
  }

  /** @param {Partial<State>} change */
  #set(change) {
    this.state = { ...this.state, ...change };
    this.emit('state', this.state);
  }

  /** @param {unknown} error */
  #stop(error) {
    const known = error instanceof AntipodeError ? error : new AntipodeError('internal', String(error));
    this.#links.current = undefined;
    this.outbox.stop();
    this.#stopping.abort(known);
    this.#set({ phase: 'stopped', error: known, gateway: '', rttMs: 0, retryAtMs: 0, carrier: '' });
  }
}
