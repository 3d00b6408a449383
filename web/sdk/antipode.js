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

import { Carrier } from './carrier.js';
import { AntipodeError } from './codes.js';
import { Connection } from './connection.js';
import { race } from './dial.js';
import { Emitter, pause } from './emitter.js';
import { Endpoints } from './endpoints.js';
import { HTTPCalls } from './http.js';
import { traceparent, uuidv7 } from './ids.js';
import { Outbox } from './outbox.js';
import { backOffMs } from './policy.js';
import { PollSocket, pollTo } from './poll.js';
import { defaultShelf, Store, takeSlot } from './store.js';
import { Streams, StreamSocket } from './stream.js';
import { Submits } from './submits.js';
import { Sync } from './sync.js';
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
 * @property {() => Promise<{token: string, expiresMs: number}>} token  called when none is held or it has expired
 * @property {Record<string, string>} [catalogueKeys]  public keys in base64 (raw Ed25519), by id: only gateways of a catalogue that one of
 *                                       them signed are used. A browser may lack Ed25519 (canVerify): then no list is taken
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

/**
 * A connection that said welcome.
 * @typedef {object} Link
 * @property {Connection} connection
 * @property {import('./dial.js').Gateway} gateway
 * @property {boolean} polled  by long poll
 * @property {number} since
 * @property {boolean} going  the gateway said goaway
 * @property {Promise<Link | undefined> | undefined} moving  to where it moves, if it does
 */

/** @typedef {{id: string, secret: string, push: bigint}} Session */

/** For a call's reply. It exceeds the servers' deadline for global acks. */
const CALL_MS = 20000;
const PUSH_ACK_EVERY = 32;
/** The part of the most pushes, and of the most time, after which they are acknowledged: not by all members of a group at one time. */
const ackPart = () => (1 + Math.random()) / 2;
/** Submits of one conversation under way at once on a socket. Over HTTP there is no order but one at a time. */
const WINDOW = 16;
/** Between two looks while calls go over HTTP. */
const POLL_MS = 4000;
/** After these the same gateway is no place to come back to. */
const LEAVE = new Set(['draining', 'gateway_fenced', 'overloaded', 'unready', 'too_many_requests', 'internal']);
/** Refusals of a hello that say nothing of the gateway. */
const OWN_FAULT = new Set(['token_expired', 'login_tie', 'session_expired', 'draining']);
/** A connection that lasted so long was a good one: the next loss begins a new back-off. */
const GOOD_MS = 10000;
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
  /** cuts a wait between two connections short */
  #hurry = new AbortController();
  /** @type {Connection | undefined} the one that said welcome */
  #connection;
  /** @type {Session | undefined} to be resumed */
  #session;
  /** @type {{token: string, expiresMs: number} | undefined} */
  #token;
  /** @type {Store | undefined} */
  #store;
  /** the gateway just lost: it still has the session */
  #prefer = '';
  /** the gateway that sent this client away, or did not say welcome: tried last */
  #avoid = '';
  #clockOffsetMs = 0;
  #origin = '';
  #heardAt = 0;
  #carrier = new Carrier(performance.now());
  #streams = new Streams();
  /** @type {string} the conversation on display */
  #open = '';

  /** @param {Options} options */
  constructor(options) {
    super();
    this.options = options;
    this.uid = options.uid;
    this.#endpoints = new Endpoints({ ipconf: options.ipconf, catalogueKeys: options.catalogueKeys });
    this.#http = new HTTPCalls(
      {
        gateways: () => this.#endpoints.ordered(),
        failed: (key) => this.#endpoints.failed(key),
        token: () => this.#freshToken(),
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
        online: () => this.#connection !== undefined || this.state.polling,
        call: (method, key, body, signal) => this.#call(method, key, body, { signal }),
        pullFrom: (region, body, signal) => this.#http.at(region, '/v1/pull', body, signal),
        changed: (conversation) => this.emit('changed', conversation),
      },
      this.#stopping.signal,
    );
    this.typing = new Typing(
      {
        uid: options.uid,
        tell: (method, key, body) => this.#connection?.call(method, key, body, { timeoutMs: CALL_MS }) ?? Promise.resolve(),
        changed: (id) => this.emit('changed', this.sync.conversation(id)),
      },
      this.#stopping.signal,
    );
    this.outbox = new Outbox({
      submit: (item) => this.#submit(item),
      window: () => (this.#connection ? WINDOW : this.state.polling ? 1 : 0),
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
    this.#connection?.bye();
    this.#stop(new AntipodeError('unavailable', 'stopped'));
  }

  /** Tries again at once if it is waiting, and makes sure of a connection that may be dead. */
  wake() {
    this.#hurry.abort();
    this.#connection?.probe();
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
    if (this.#connection) void this.#inspect(id);
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
    let refreshed = false;
    let force = false; // the list led nowhere: ask for another
    for (let attempt = 0; ; ) {
      /** @type {AntipodeError} */
      let error;
      /** @type {Link | undefined} */
      let link;
      try {
        this.#set({ phase: 'connecting' });
        link = await this.#connect(this.#store, { force });
        force = false;
        refreshed = false;
        ({ link, error } = await this.#last(link));
        this.#connection = undefined;
        const lasted = performance.now() - link.since;
        const cut = error.code === 'unavailable' && !error.remote;
        this.#carrier.ended({ polled: link.polled, lasted, cut }, performance.now(), this.#endpoints.policy.pollFallback, Math.random());
        if (LEAVE.has(error.code)) this.#avoid = link.gateway.key;
        else this.#prefer = link.gateway.key;
      } catch (thrown) {
        signal.throwIfAborted();
        this.#carrier.failed();
        force = true;
        error = thrown instanceof AntipodeError ? thrown : new AntipodeError('unavailable', String(thrown));
      }
      signal.throwIfAborted();
      if (error.code === 'session_expired') this.#session = undefined;
      if (error.code === 'token_expired' && !refreshed) {
        this.#token = undefined; // a new token, once; refused again it is a stop
        refreshed = true;
      } else if (error.action === 'stop') {
        throw error;
      }
      if (link && performance.now() - link.since > GOOD_MS) attempt = 0;
      const quick = error.action !== 'back_off' && attempt === 0;
      const wait = quick ? this.#endpoints.policy.backoffBase * Math.random() : backOffMs(this.#endpoints.policy, attempt, error.retryAfterMs);
      attempt++;
      this.#set({ phase: 'waiting', retryAtMs: Date.now() + wait, gateway: '', rttMs: 0, carrier: '', error });
      this.#hurry = new AbortController();
      await pause(wait, AbortSignal.any([signal, this.#hurry.signal])).catch(() => signal.throwIfAborted());
    }
  }

  /**
   * Waits until a connection is over, and those that replaced it.
   * @param {Link} link
   * @returns {Promise<{link: Link, error: AntipodeError}>} the last of them, and why it ended
   */
  async #last(link) {
    for (;;) {
      const error = await link.connection.closed;
      const next = await link.moving;
      if (!next) return { link, error };
      link = next;
    }
  }

  /**
   * Finds a gateway, says hello, and returns when welcome is there.
   * @param {Store} store
   * @param {{force?: boolean, alternatives?: string[]}} how  alternatives: of a client that leaves its gateway, where it may go
   * @returns {Promise<Link>}
   */
  async #connect(store, { force = false, alternatives }) {
    await this.#freshToken(); // no socket is to wait for it
    const order = await this.#order(store, force, alternatives ?? []);
    if (this.#carrier.polls(performance.now(), this.#endpoints.policy.pollFallback, Math.random())) return this.#poll(order, store);
    const { socket, gateway } = await race(order, this.#endpoints.policy, this.#streams, this.#stopping.signal, (key) => this.#endpoints.failed(key));
    return this.#login(socket, gateway, store);
  }

  /**
   * Opens a long poll at the first gateway that takes one, of a few.
   * @param {import('./dial.js').Gateway[]} order @param {Store} store
   */
  async #poll(order, store) {
    /** @type {unknown} */
    let lastError = new AntipodeError('unavailable', 'no gateway takes long polls');
    for (const gateway of order.filter((g) => g.pullUrl).slice(0, this.#endpoints.policy.raceWidth)) {
      try {
        return await this.#login(new PollSocket(pollTo(gateway), CALL_MS), gateway, store);
      } catch (error) {
        this.#stopping.signal.throwIfAborted();
        if (error instanceof AntipodeError && error.remote) throw error;
        lastError = error;
      }
    }
    throw lastError;
  }

  /**
   * Says hello on a socket, and installs the connection that is welcomed.
   * @param {import('./socket.js').Socket} socket @param {import('./dial.js').Gateway} gateway @param {Store} store
   * @returns {Promise<Link>}
   */
  async #login(socket, gateway, store) {
    const { signal } = this.#stopping;
    const polled = socket instanceof PollSocket;
    const token = await this.#freshToken().catch((error) => {
      socket.close();
      throw error;
    });
    this.#prefer = '';
    this.#avoid = gateway.key; // until it says welcome

    const connection = new Connection(socket);
    const stop = () => connection.leave(new AntipodeError('unavailable', 'stopped'));
    signal.addEventListener('abort', stop, { once: true });
    connection.on('closed', () => signal.removeEventListener('abort', stop));
    const session = this.#session; // any gateway of its region takes it up
    const asked = Date.now();
    const greeted = connection.hello(
      {
        token,
        device: store.device,
        platform: 'web',
        login: store.nextLogin().toString(),
        agent: this.options.agent ?? 'antipode-web/1',
        ...(session && { resume: { session: session.id, secret: session.secret, push: session.push.toString() } }),
      },
      this.#endpoints.policy,
    );
    const welcome = await greeted.catch((error) => {
      if (!OWN_FAULT.has(error.code)) this.#endpoints.failed(gateway.key);
      throw error;
    });
    this.#endpoints.used(gateway.key);
    /** @type {Link} */
    const link = { connection, gateway, polled, since: performance.now(), going: false, moving: undefined };
    this.#carrier.opened(polled);
    this.#session = { id: welcome.session ?? '', secret: welcome.resumeSecret ?? '', push: welcome.resumed && session ? session.push : 0n };
    this.#listen(link, this.#session, store);
    if (welcome.serverTimeMs) this.#clockOffsetMs = Number(welcome.serverTimeMs) - (asked + Date.now()) / 2;
    this.#origin = welcome.origin || welcome.region || '';
    this.maxText = welcome.maxTextBytes || this.maxText;
    store.last = gateway.key;
    this.#avoid = '';
    this.#heardAt = performance.now();
    this.#connection = connection;
    this.#set({ phase: 'online', gateway: welcome.gateway || gateway.id, region: welcome.region || gateway.region, retryAtMs: 0, rttMs: 0, carrier: polled ? 'long poll' : socket instanceof StreamSocket ? 'WebTransport' : 'WebSocket', polling: false, error: undefined });
    if (polled) void this.#leavePoll(link, store).catch(() => {}); // it ends with the client
    this.outbox.resend();
    if (!welcome.resumed) {
      void this.sync.restart().catch(() => {}); // the connection's end is told by closed; otherwise the fallback asks again
      if (this.#open) void this.#inspect(this.#open);
    }
    this.sync.remark();
    return link;
  }

  /**
   * The gateways to try, best first: the last one or where a goaway leads, then as ipconf ranks them.
   * @param {Store} store @param {boolean} force @param {string[]} alternatives
   */
  async #order(store, force, alternatives) {
    const { uid, region = '' } = this.options;
    const rtt = Object.entries(store.rtts())
      .map(([name, ms]) => `${name}:${ms}`)
      .join(',');
    const query = { uid, device: store.device, platform: 'web', region, last: store.last, rtt };
    const first = this.#endpoints.named(alternatives);
    /** @type {import('./dial.js').Gateway[]} */
    let list = [];
    try {
      list = await this.#endpoints.get(query, force, this.#stopping.signal);
    } catch (error) {
      if (first.length === 0) throw error;
    }
    this.outbox.policy = this.#endpoints.policy;
    /** @param {import('./dial.js').Gateway} g */
    const rank = (g) => (g.key === this.#prefer ? 0 : g.key === this.#avoid ? 2 : 1);
    return [...first, ...list.filter((g) => !first.some((f) => f.url === g.url)).sort((a, b) => rank(a) - rank(b))];
  }

  /** @param {Link} link @param {Session} session @param {Store} store */
  #listen(link, session, store) {
    const { connection } = link;
    let unacked = 0;
    let received = 0n; // on this connection: what came on another one is not to be acknowledged here
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    let part = ackPart();
    const ack = () => {
      clearTimeout(timer);
      timer = undefined;
      unacked = 0;
      part = ackPart();
      connection.pushAck(received);
    };
    connection.on('push', (push) => {
      if (push.number === 0n) {
        // Ephemeral: it is neither counted nor acknowledged.
        if (push.body.typing) this.typing.hear(push.body.typing);
        return;
      }
      this.#heardAt = performance.now();
      if (push.number > session.push + 1n) void this.sync.refresh().catch(() => {}); // some were lost: the list knows what
      if (push.number > session.push) session.push = push.number;
      received = push.number;
      if (push.service === 'im' && push.method === 'event') {
        this.sync.takeEvent(push.body);
        const id = push.body.record?.conversation;
        if (id) this.typing.stop(id, push.body.record.sender ?? '');
        if (id && id === this.#open && !this.sync.conversation(id).membersKnown) void this.sync.learn(this.sync.conversation(id));
      }
      if (++unacked >= PUSH_ACK_EVERY * part) ack();
      else timer ??= setTimeout(ack, this.#endpoints.policy.pushAck * part);
    });
    connection.on('behind', (number) => {
      if (number > session.push) session.push = number;
      received = number;
      ack();
      void this.sync.refresh().catch(() => {});
    });
    connection.on('goaway', ({ withinMs, alternatives }) => {
      if (link.going) return;
      link.going = true;
      link.moving = Promise.resolve(link.moving).then((moved) => moved ?? this.#move(link, store, withinMs, alternatives));
    });
    connection.on('rtt', (ms) => {
      if (this.#connection !== connection) return;
      store.keepRTT(this.state.region, ms);
      this.#set({ rttMs: ms });
    });
    connection.on('closed', () => clearTimeout(timer));
  }

  /**
   * Leaves a gateway that is draining: the old connection serves until the new one has said welcome.
   * @param {Link} link @param {Store} store @param {number} withinMs @param {string[]} alternatives
   * @returns {Promise<Link | undefined>}
   */
  async #move(link, store, withinMs, alternatives) {
    const { ended } = link.connection;
    await pause(withinMs * Math.random(), ended).catch(() => {});
    if (ended.aborted) return undefined;
    this.#avoid = link.gateway.key;
    return this.#replace(link, () => this.#connect(store, { alternatives }));
  }

  /**
   * Tries WebSockets from a long poll, at its gateway: the poll goes on until one has its welcome.
   * @param {Link} link @param {Store} store
   */
  async #leavePoll(link, store) {
    const { ended } = link.connection;
    const { policy } = this.#endpoints;
    while (!link.going && !ended.aborted) {
      await pause(Math.max(0, this.#carrier.due - performance.now()), ended).catch(() => {});
      if (link.going || ended.aborted) return;
      link.moving = this.#replace(link, async () => {
        const { socket, gateway } = await race([link.gateway], policy, this.#streams, this.#stopping.signal);
        return this.#login(socket, gateway, store);
      });
      if (await link.moving) return;
      this.#endpoints.used(link.gateway.key); // it serves, by long poll: the network is at fault
      this.#avoid = '';
      this.#carrier.tried(performance.now(), policy.pollFallback, Math.random());
    }
  }

  /**
   * Leaves a connection once another one is welcomed.
   * @param {Link} link @param {() => Promise<Link>} connect
   * @returns {Promise<Link | undefined>}
   */
  async #replace(link, connect) {
    try {
      const next = await connect();
      void link.connection.retire();
      return next;
    } catch {
      return undefined; // the old one serves on; if it closes, the loop goes on from there
    }
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
      const polling = !this.#connection && this.#endpoints.gateways.length > 0 && !this.#endpoints.heldBack && performance.now() - this.#carrier.lost > pollFallback;
      if (polling !== this.state.polling) this.#set({ polling });
      if (!polling && !this.#connection) continue;
      if (performance.now() - this.#heardAt < (polling ? Math.min(POLL_MS, fallbackPull) : fallbackPull) * part) continue;
      this.#heardAt = performance.now();
      part = 0.8 + 0.4 * Math.random();
      void this.sync.refresh().catch(() => {});
      if (!polling) continue;
      this.outbox.resend();
      if (this.#open) void this.#inspect(this.#open); // receipts come by push only
    }
  }

  async #freshToken() {
    if (!this.#token || this.#token.expiresMs - Date.now() < 10000) this.#token = await this.options.token();
    return this.#token.token;
  }

  /**
   * @param {string} method @param {string} key @param {object} body
   * @param {{trace?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<any>}
   */
  #call(method, key, body, { trace = '', signal } = {}) {
    if (this.#connection) return this.#connection.call(method, key, body, { trace, signal, timeoutMs: CALL_MS });
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

  /** Waits until calls can be made, for as long as a call may take. */
  async #reachable() {
    const usable = () => this.#connection !== undefined || this.state.polling;
    if (usable()) return;
    const ready = new AbortController();
    const off = this.on('state', () => usable() && ready.abort());
    try {
      await pause(CALL_MS, AbortSignal.any([this.#stopping.signal, ready.signal])).catch(() => this.#stopping.signal.throwIfAborted());
    } finally {
      off();
    }
    if (!usable()) throw new AntipodeError('unavailable', 'not connected');
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
    this.#connection = undefined;
    this.outbox.stop();
    this.#stopping.abort(known);
    this.#set({ phase: 'stopped', error: known, gateway: '', rttMs: 0, retryAtMs: 0, carrier: '' });
  }
}
