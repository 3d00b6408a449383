// @ts-check
// The link to a gateway: one connection at a time, kept for as long as the client lives.
//
//   endpoints ─▶ race ─▶ hello ─▶ welcome ─▶ pushes ─┬─ lost, closed: again, after a jittered wait
//                                                    └─ goaway: again, while the old one serves on
//
// In another network it makes sure of the connection first, and races for a new one beside it if nothing is heard.
// On networks that bear no WebSocket, Carrier has it open a long poll instead, and try WebSockets from there.

import { Carrier } from './carrier.js';
import { AntipodeError } from './codes.js';
import { Connection } from './connection.js';
import { race } from './dial.js';
import { Emitter, pause } from './emitter.js';
import { backOffMs } from './policy.js';
import { PollSocket, pollTo } from './poll.js';
import { Streams, StreamSocket } from './stream.js';

/** @typedef {import('./connection.js').Welcome} Welcome */
/** @typedef {import('./dial.js').Gateway} Gateway */
/** @typedef {import('./store.js').Store} Store */

/**
 * A connection that said welcome.
 * @typedef {object} Link
 * @property {Connection} connection
 * @property {Gateway} gateway
 * @property {boolean} polled  by long poll
 * @property {number} since
 * @property {boolean} going  the gateway said goaway
 * @property {Promise<Link | undefined> | undefined} moving  to where it moves, if it does
 */

/** @typedef {{id: string, secret: string, push: bigint}} Session */

/**
 * @typedef {object} LinksDeps
 * @property {string} uid
 * @property {string} [region]  the preferred one
 * @property {string} [home]  where the user is at home
 * @property {string} [agent]
 * @property {string[]} [certificates]  SHA-256 in base64
 * @property {import('./endpoints.js').Endpoints} endpoints
 * @property {import('./tokens.js').Tokens} tokens
 * @property {number} patienceMs  how long a long poll is repeated without an answer
 */

/**
 * @typedef {object} Events
 * @property {Partial<import('./antipode.js').State>} state
 * @property {{welcome: Welcome, clockOffsetMs: number | undefined}} welcome  clockOffsetMs: the server's clock less this one's, if it told
 * @property {any} event      of the service im
 * @property {any} ephemeral  neither counted nor acknowledged
 * @property {undefined} missed  some pushes will not come: the list knows what they were
 */

const PUSH_ACK_EVERY = 32;
/** The part of the most pushes, and of the most time, after which they are acknowledged: not by all members of a group at one time. */
const ackPart = () => (1 + Math.random()) / 2;
/** After these the same gateway is no place to come back to. */
const LEAVE = new Set(['draining', 'gateway_fenced', 'overloaded', 'unready', 'too_many_requests', 'internal']);
/** Refusals of a hello that say nothing of the gateway. */
const OWN_FAULT = new Set(['token_expired', 'login_tie', 'session_expired', 'draining']);
/** A connection that lasted so long was a good one: the next loss begins a new back-off. */
const GOOD_MS = 10000;
/** The part of the connect timeout that a connection has to show that it came along to another network, before others are dialled beside it. */
const HEAD_START = 0.2;

/** @extends {Emitter<Events>} */
export class Links extends Emitter {
  /** @type {Connection | undefined} the one that said welcome */
  current;
  /** kind of network, told to ipconfs */
  network = '';
  /** cuts a wait between two connections short */
  #hurry = new AbortController();
  /** a server said how long that wait is to be */
  #told = false;
  /** connections that could not be had, or did not last, in a row */
  #attempt = 0;
  /** aborts when the device is in another network: what is dialled in the old one leads nowhere */
  #network = new AbortController();
  /** @type {Link | undefined} that of current */
  #link;
  /** @type {Session | undefined} to be resumed */
  #session;
  /** the gateway just lost: it still has the session */
  #prefer = '';
  /** the gateway that sent this client away, or did not say welcome: tried last */
  #avoid = '';
  #region = '';
  #carrier = new Carrier(performance.now());
  /** @type {Streams} */
  #streams;

  /** @param {LinksDeps} deps @param {AbortSignal} signal  ends everything */
  constructor(deps, signal) {
    super();
    this.deps = deps;
    this.#streams = new Streams(deps.certificates);
    this.signal = signal;
  }

  get #policy() {
    return this.deps.endpoints.policy;
  }

  /** Ends what is begun in this network. */
  #here() {
    return AbortSignal.any([this.signal, this.#network.signal]);
  }

  /** For how long there has been no connection. */
  get missingMs() {
    return this.current ? 0 : performance.now() - this.#carrier.lost;
  }

  /** Tries again at once if it is waiting, and makes sure of a connection that may be dead. */
  wake() {
    this.#hurry.abort();
    this.current?.probe();
  }

  /**
   * The device is in another network. What was learned of the old one is forgotten, and the next list is asked for anew. A
   * connection that does not answer soon is replaced; a wait for the next one is cut short, unless a server said how long it is to be.
   * @param {Store | undefined} store
   */
  moved(store) {
    store?.forgetRTTs();
    this.deps.endpoints.moved();
    this.#streams.moved();
    this.#carrier.moved(performance.now());
    this.#avoid = '';
    this.#attempt = 0;
    const old = this.#network;
    this.#network = new AbortController();
    old.abort(new AntipodeError('unavailable', 'the network has changed'));
    if (!this.#told) this.#hurry.abort();
    const link = this.#link;
    if (!link || !store) return;
    const before = link.connection.heard;
    link.connection.probe();
    if (link.polled) return; // its requests find the new network by themselves
    link.moving = Promise.resolve(link.moving).then((next) => next ?? this.#makeSure(link, store, before));
  }

  /**
   * Connects, again and again, until something says that it must not.
   * @param {Store} store
   * @returns {Promise<never>}
   */
  async run(store) {
    const { signal } = this;
    let refreshed = false;
    let force = false; // the list led nowhere: ask for another
    for (;;) {
      /** @type {AntipodeError} */
      let error;
      /** @type {Link | undefined} */
      let link;
      try {
        this.emit('state', { phase: 'connecting' });
        link = await this.#connect(store, { force });
        force = false;
        refreshed = false;
        ({ link, error } = await this.#last(link));
        this.current = this.#link = undefined;
        const lasted = performance.now() - link.since;
        let cut = error.code === 'unavailable' && !error.remote;
        if (this.#streams.ended(link.connection.socket, { lasted, cut }, this.#policy.pollFallback)) cut = false; // it says nothing of WebSockets: one is next
        this.#carrier.ended({ polled: link.polled, lasted, cut }, performance.now(), this.#policy.pollFallback, Math.random());
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
        this.deps.tokens.forget(); // a new token, once; refused again it is a stop
        refreshed = true;
      } else if (error.action === 'stop') {
        throw error;
      }
      if (link && performance.now() - link.since > GOOD_MS) this.#attempt = 0;
      const quick = error.action !== 'back_off' && this.#attempt === 0;
      const wait = quick ? this.#policy.backoffBase * Math.random() : backOffMs(this.#policy, this.#attempt, error.retryAfterMs);
      this.#attempt++;
      this.#told = error.retryAfterMs > 0;
      this.emit('state', { phase: 'waiting', retryAtMs: Date.now() + wait, gateway: '', rttMs: 0, carrier: '', error });
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
   * @param {{force?: boolean, alternatives?: string[]}} [how]  alternatives: of a client that leaves its gateway, where it may go
   * @returns {Promise<Link>}
   */
  async #connect(store, { force = false, alternatives } = {}) {
    const signal = this.#here();
    await this.deps.tokens.fresh(); // no socket is to wait for it
    const order = await this.#order(store, force, alternatives ?? [], signal);
    if (this.#carrier.polls(performance.now(), this.#policy.pollFallback, Math.random())) return this.#poll(order, store, signal);
    const { socket, gateway } = await race(order, this.#policy, this.#streams, signal, (key) => this.deps.endpoints.failed(key));
    return this.#login(socket, gateway, store, signal);
  }

  /**
   * Opens a long poll at the first gateway that takes one, of a few.
   * @param {Gateway[]} order @param {Store} store @param {AbortSignal} signal
   */
  async #poll(order, store, signal) {
    /** @type {unknown} */
    let lastError = new AntipodeError('unavailable', 'no gateway takes long polls');
    for (const gateway of order.filter((g) => g.pullUrl).slice(0, this.#policy.raceWidth)) {
      try {
        return await this.#login(new PollSocket(pollTo(gateway), this.deps.patienceMs, this.#policy.maxFrame), gateway, store, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof AntipodeError && error.remote) throw error;
        lastError = error;
      }
    }
    throw lastError;
  }

  /**
   * Says hello on a socket, and installs the connection that is welcomed.
   * @param {import('./socket.js').Socket} socket @param {Gateway} gateway @param {Store} store @param {AbortSignal} signal
   * @returns {Promise<Link>}
   */
  async #login(socket, gateway, store, signal) {
    const token = await this.deps.tokens.fresh().catch((error) => {
      socket.close();
      throw error;
    });
    if (signal.aborted) {
      socket.close();
      throw signal.reason;
    }
    this.#prefer = '';
    this.#avoid = gateway.key; // until it says welcome

    const connection = new Connection(socket);
    const leave = () => connection.leave(signal.reason);
    signal.addEventListener('abort', leave);
    const stop = () => connection.leave(this.signal.reason);
    this.signal.addEventListener('abort', stop);
    connection.on('closed', () => {
      signal.removeEventListener('abort', leave);
      this.signal.removeEventListener('abort', stop);
    });
    const session = this.#session; // any gateway of its region takes it up
    const asked = Date.now();
    /** @type {Link} */
    const link = { connection, gateway, polled: socket instanceof PollSocket, since: performance.now(), going: false, moving: undefined };
    connection.on('welcome', (welcome) => {
      signal.removeEventListener('abort', leave);
      link.since = performance.now();
      this.deps.endpoints.used(gateway.key);
      this.#session = { id: welcome.session ?? '', secret: welcome.resumeSecret ?? '', push: welcome.resumed && session ? session.push : 0n };
      this.#listen(link, this.#session, store);
      this.#install(link, welcome, store);
      this.emit('welcome', { welcome, clockOffsetMs: welcome.serverTimeMs ? Number(welcome.serverTimeMs) - (asked + Date.now()) / 2 : undefined });
    });
    const hello = {
      token,
      device: store.device,
      platform: 'web',
      login: store.nextLogin().toString(),
      agent: this.deps.agent ?? 'antipode-web/1',
      ...(session && { resume: { session: session.id, secret: session.secret, push: session.push.toString() } }),
    };
    try {
      await connection.hello(hello, this.#policy);
    } catch (error) {
      if (!(error instanceof AntipodeError && OWN_FAULT.has(error.code)) && !signal.aborted) this.deps.endpoints.failed(gateway.key);
      throw error;
    }
    return link;
  }

  /** @param {Link} link @param {Welcome} welcome @param {Store} store */
  #install(link, welcome, store) {
    const { connection, gateway, polled } = link;
    this.#carrier.opened(polled);
    store.last = gateway.key;
    this.#avoid = '';
    this.#region = welcome.region || gateway.region;
    this.current = connection;
    this.#link = link;
    const carrier = polled ? 'long poll' : connection.socket instanceof StreamSocket ? 'WebTransport' : 'WebSocket';
    this.emit('state', { phase: 'online', gateway: welcome.gateway || gateway.id, region: this.#region, retryAtMs: 0, rttMs: 0, carrier, polling: false, error: undefined });
    if (polled) void this.#leavePoll(link, store).catch(() => {}); // it ends with the client
  }

  /**
   * The gateways to try, best first: the last one or where a goaway leads, then as ipconf ranks them.
   * @param {Store} store @param {boolean} force @param {string[]} alternatives @param {AbortSignal} signal
   */
  async #order(store, force, alternatives, signal) {
    const { uid, region = '', home = '' } = this.deps;
    const rtt = Object.entries(store.rtts())
      .map(([name, ms]) => `${name}:${ms}`)
      .join(',');
    const query = { uid, device: store.device, platform: 'web', network: this.network, region, home, last: store.last, rtt };
    const first = this.deps.endpoints.named(alternatives);
    /** @type {Gateway[]} */
    let list = [];
    try {
      list = await this.deps.endpoints.get(query, force, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (first.length === 0) throw error;
    }
    /** @param {Gateway} g */
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
        this.emit('ephemeral', push.body);
        return;
      }
      if (push.number > session.push + 1n) this.emit('missed', undefined); // some were lost: the list knows what
      if (push.number > session.push) session.push = push.number;
      received = push.number;
      if (push.service === 'im' && push.method === 'event') this.emit('event', push.body);
      if (++unacked >= PUSH_ACK_EVERY * part) ack();
      else timer ??= setTimeout(ack, this.#policy.pushAck * part);
    });
    connection.on('behind', (number) => {
      if (number > session.push) session.push = number;
      received = number;
      ack();
      this.emit('missed', undefined);
    });
    connection.on('goaway', ({ withinMs, alternatives }) => {
      if (link.going) return;
      link.going = true;
      link.moving = Promise.resolve(link.moving).then((moved) => moved ?? this.#move(link, store, withinMs, alternatives));
    });
    connection.on('rtt', (ms) => {
      if (this.current !== connection) return;
      store.keepRTT(this.#region, ms);
      this.emit('state', { rttMs: ms });
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
   * Leaves a connection that is not heard of in another network: it may belong to an address that the device has no more.
   * @param {Link} link @param {Store} store @param {number} before  how many frames had come at the move
   * @returns {Promise<Link | undefined>}
   */
  async #makeSure(link, store, before) {
    const { connection } = link;
    const here = this.#here();
    await pause(this.#policy.connectTimeout * HEAD_START, AbortSignal.any([connection.ended, here])).catch(() => {});
    if (connection.ended.aborted || here.aborted || connection.heard > before) return undefined;
    return this.#replace(link, () => this.#connect(store));
  }

  /**
   * Tries WebSockets from a long poll, at its gateway: the poll goes on until one has its welcome.
   * @param {Link} link @param {Store} store
   */
  async #leavePoll(link, store) {
    const { ended } = link.connection;
    while (!link.going && !ended.aborted) {
      const signal = this.#here();
      await pause(Math.max(0, this.#carrier.due - performance.now()), AbortSignal.any([ended, signal])).catch(() => {});
      if (link.going || ended.aborted) return;
      if (signal.aborted) continue; // the time is another one now
      link.moving = this.#replace(link, async () => {
        const { socket, gateway } = await race([link.gateway], this.#policy, this.#streams, signal);
        return this.#login(socket, gateway, store, signal);
      });
      if (await link.moving) return;
      if (signal.aborted) continue;
      this.deps.endpoints.used(link.gateway.key); // it serves, by long poll: the network is at fault
      this.#avoid = '';
      this.#carrier.tried(performance.now(), this.#policy.pollFallback, Math.random());
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
}
