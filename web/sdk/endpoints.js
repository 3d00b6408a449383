// @ts-check
// The list of gateways: asked of ipconfs, kept as a fallback, and what this client found out by trying.

import { inCatalogue, openCatalogue } from './catalogue.js';
import { AntipodeError } from './codes.js';
import { gatewayOf, staggered } from './dial.js';
import { backOffMs, DEFAULT_POLICY, readPolicy } from './policy.js';

/** @typedef {import('./dial.js').Gateway} Gateway */
/** @typedef {import('./catalogue.js').Catalogue} Catalogue */
/** @typedef {{base: string, gateways: Gateway[], wire: any, etag: string, signed?: string, catalogue?: Catalogue}} Answer  gateways: none if the list is still good */

/** How long an ipconf has to answer before the next one is asked too. */
const NEXT_IPCONF_MS = 700;
/** Ipconfs of the catalogue that are asked beside those configured: enough to find one that lives. */
const MORE_IPCONFS = 4;
/** Gateways of the catalogue that are tried when there is no list. */
const MORE_GATEWAYS = 16;
/** Bounds of what an ipconf is told, and of what is remembered. */
const MAX_FAILED = 8;
const MAX_TRIED = 256;

/**
 * @typedef {object} EndpointsOptions
 * @property {string[]} ipconf  base URLs, preferred first
 * @property {Record<string, string>} [catalogueKeys]  public keys in base64 (raw Ed25519), by id: gateways must be in a catalogue that one of them signed
 * @property {{list: string}} [kept]  where the last list is kept across page loads
 */

export class Endpoints {
  policy = DEFAULT_POLICY;
  /** @type {Gateway[]} best first, as ipconf ranks them */
  gateways = [];
  #freshUntil = 0;
  #ttlMs = 30000;
  /** an ipconf said not to ask, nor to use an old list, before then */
  #notBefore = 0;
  #etag = '';
  #etagFrom = '';
  /** @type {Catalogue | undefined} */
  #catalogue;
  #signed = '';
  #restored = false;
  /** @type {Map<string, {failures: number, until: number, told: boolean}>} by key */
  #tried = new Map();

  /** @param {EndpointsOptions} options */
  constructor(options) {
    this.options = options;
  }

  /** While an ipconf has said to wait, the old list must not lead anywhere either. */
  get heldBack() {
    return performance.now() < this.#notBefore;
  }

  /**
   * The gateways, those that failed lately last. It asks an ipconf if the list is old, or with force; if none answers, the last
   * list stands, however old. An ipconf that says when to come back is obeyed.
   * @param {Record<string, string>} query  uid, device, platform, region, last, rtt…
   * @param {boolean} force @param {AbortSignal} signal
   */
  async get(query, force, signal) {
    await this.#restore();
    if (!force && this.gateways.length > 0 && performance.now() < this.#freshUntil) return this.ordered();
    const held = this.#notBefore - performance.now();
    if (held > 0) throw new AntipodeError('overloaded', 'ipconf said when to come back', { retryAfterMs: held });
    const bases = [...this.options.ipconf, ...(this.#catalogue?.ipconfs ?? []).slice(0, MORE_IPCONFS)];
    if (bases.length === 0) throw new AntipodeError('unavailable', 'no ipconf is known');
    try {
      const ask = (/** @type {string} */ base, /** @type {AbortSignal} */ ended) => this.#ask(base, query, ended);
      this.#take(await staggered(bases, NEXT_IPCONF_MS, signal, ask, { decides: saysWhen }));
    } catch (error) {
      signal.throwIfAborted();
      if (saysWhen(error)) {
        this.#notBefore = performance.now() + /** @type {AntipodeError} */ (error).retryAfterMs;
        throw error;
      }
      if (this.gateways.length === 0) throw error; // the old list stays usable
    }
    return this.ordered();
  }

  /** The list with those that failed lately last, the least recently failed first among them. */
  ordered() {
    const now = performance.now();
    const until = (/** @type {Gateway} */ g) => Math.max(0, (this.#tried.get(g.key)?.until ?? 0) - now);
    return [...this.gateways].sort((a, b) => until(a) - until(b));
  }

  /**
   * The gateways of these WebSocket URLs that may be used: those of the list, else as the catalogue has them, else by URL alone if
   * nothing needs to be signed.
   * @param {string[]} urls @returns {Gateway[]}
   */
  named(urls) {
    const known = [...this.gateways, ...(this.#catalogue?.gateways ?? [])];
    return urls.flatMap((url) => {
      const gateway = known.find((g) => g.url === url);
      if (gateway) return [gateway];
      return this.options.catalogueKeys ? [] : [{ key: url, id: url, region: '', url, pullUrl: '', streamUrl: '' }];
    });
  }

  /** A gateway could not be used: it comes last for a while, and an ipconf is told. @param {string} key */
  failed(key) {
    if (this.#tried.size > MAX_TRIED) this.#tried.clear(); // gateways come and go; what was learned of them is a hint
    const trial = this.#tried.get(key) ?? { failures: 0, until: 0, told: false };
    trial.until = performance.now() + backOffMs(this.policy, trial.failures);
    trial.failures++;
    trial.told = false;
    this.#tried.set(key, trial);
  }

  /** @param {string} key */
  used(key) {
    this.#tried.delete(key);
  }

  /** In another network, other gateways fail and others are near: the next get asks an ipconf. What one said about coming back stands. */
  moved() {
    this.#freshUntil = 0;
    this.#etag = '';
    this.#tried.clear();
  }

  /** @param {string} base @param {Record<string, string>} query @param {AbortSignal} ended @returns {Promise<Answer>} */
  async #ask(base, query, ended) {
    const signal = AbortSignal.any([ended, AbortSignal.timeout(this.policy.connectTimeout)]);
    const failed = [...this.#tried].filter(([, t]) => !t.told).map(([key]) => key);
    const parameters = new URLSearchParams(Object.entries({ ...query, failed: failed.slice(0, MAX_FAILED).join(',') }).filter(([, value]) => value !== ''));
    const tagged = this.#etag !== '' && this.#etagFrom === base && this.gateways.length > 0 && failed.length === 0;
    const response = await fetch(`${trim(base)}/v1/endpoints?${parameters}`, {
      signal,
      cache: 'no-store', // the list is kept here
      ...(tagged && { headers: { 'If-None-Match': this.#etag } }),
    });
    if (response.status === 304 && tagged) return { base, gateways: [], wire: undefined, etag: this.#etag };
    if (!response.ok) throw await refusal(response, base);
    const wire = await response.json();
    /** @type {Gateway[]} */
    let gateways = (wire.gateways ?? []).map(gatewayOf);
    /** @type {Answer} */
    const answer = { base, gateways, wire, etag: response.headers.get('ETag') ?? '' };
    if (this.options.catalogueKeys) {
      answer.catalogue = this.#catalogue;
      if (!answer.catalogue || answer.catalogue.version !== wire.catalogue || Date.now() >= answer.catalogue.untilMs) {
        const signed = await fetch(`${trim(base)}/v1/catalogue`, { signal });
        if (!signed.ok) throw await refusal(signed, base);
        answer.signed = await signed.text();
        answer.catalogue = await openCatalogue(answer.signed, this.options.catalogueKeys, Date.now());
      }
      answer.gateways = gateways = inCatalogue(gateways, answer.catalogue);
    }
    if (gateways.length === 0) throw new AntipodeError('unavailable', `ipconf ${base} knows no gateway${answer.catalogue ? ' that the signed catalogue names' : ''}`);
    return answer;
  }

  /** @param {Answer} answer */
  #take({ base, gateways, wire, etag, signed, catalogue }) {
    for (const trial of this.#tried.values()) trial.told = true;
    this.#notBefore = 0;
    if (wire !== undefined) {
      this.gateways = gateways;
      this.policy = readPolicy(wire.policy);
      this.#ttlMs = Math.max(1000, Number(wire.ttl_ms) || 30000);
      this.#etag = etag;
      this.#etagFrom = base;
      if (catalogue && signed !== undefined && catalogue.issuedMs >= (this.#catalogue?.issuedMs ?? 0)) {
        this.#catalogue = catalogue;
        this.#signed = signed;
      }
      if (this.options.kept) this.options.kept.list = JSON.stringify({ gateways, signed: this.#signed });
    }
    this.#freshUntil = performance.now() + this.#ttlMs;
  }

  /** Takes the list that an earlier page load kept, once: as much of it as the catalogue beside it names, where there are keys. */
  async #restore() {
    if (this.#restored) return;
    this.#restored = true;
    try {
      const kept = JSON.parse(this.options.kept?.list || '{}');
      /** @type {Gateway[]} */
      let gateways = (Array.isArray(kept.gateways) ? kept.gateways : []).map((/** @type {Gateway} */ g) => ({ ...g, streamUrl: g.streamUrl ?? '' })); // an older version kept none
      if (this.options.catalogueKeys) {
        this.#catalogue = await openCatalogue(kept.signed, this.options.catalogueKeys, Date.now());
        this.#signed = kept.signed;
        gateways = inCatalogue(gateways, this.#catalogue);
        // At random: all who have but a catalogue must not meet at its top.
        if (gateways.length === 0) gateways = this.#catalogue.gateways.map((g) => ({ g, at: Math.random() })).sort((a, b) => a.at - b.at).map(({ g }) => g).slice(0, MORE_GATEWAYS);
      }
      if (this.gateways.length === 0) this.gateways = gateways;
    } catch {
      // damaged, or signed by nobody who is trusted any more: it is a fallback, and there is none
    }
  }
}

/** @param {string} base */
const trim = (base) => base.replace(/\/$/, '');

/** Whether an error says when to come back: then others would say the same. @param {unknown} error */
const saysWhen = (error) => error instanceof AntipodeError && (error.code === 'overloaded' || error.code === 'too_many_requests') && error.retryAfterMs > 0;

/**
 * The error that an HTTP answer stands for: what its body says, else by the header Retry-After alone.
 * @param {Response} response @param {string} from
 */
export async function refusal(response, from) {
  const body = await response.json().catch(() => undefined);
  const retryAfterMs = Number(body?.retryAfterMs ?? body?.retry_after_ms) || (Number(response.headers.get('Retry-After')) || 0) * 1000;
  if (body?.code) return AntipodeError.of({ ...body, retryAfterMs });
  return new AntipodeError('unavailable', `${from} answers ${response.status}`, { retryAfterMs });
}
