// @ts-check
// The signed catalogue of all gateways and ipconfs (docs/protocol.md): what may be trusted, whoever handed it on.

import { gatewayOf } from './dial.js';

/** @typedef {import('./dial.js').Gateway} Gateway */
/** @typedef {{version: string, issuedMs: number, untilMs: number, gateways: Gateway[], ipconfs: string[]}} Catalogue */

/** It comes before what is signed, so that a signature of this key over something else is none of this. */
const CONTEXT = 'antipode.v1 catalogue\n';

/** @param {string} base64 @returns {Uint8Array<ArrayBuffer>} */
const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

/**
 * Whether this browser can check signatures. Where it cannot, a page decides: without catalogueKeys lists are trusted as far as TLS
 * is, and with them no list is taken.
 */
export async function canVerify() {
  try {
    await crypto.subtle.importKey('raw', new Uint8Array(32), 'Ed25519', false, ['verify']);
    return true;
  } catch {
    return false;
  }
}

/**
 * Checks a signed catalogue and reads it. One that is not to be trusted, or no longer, is an error.
 * @param {string} signed  the answer of GET /v1/catalogue
 * @param {Record<string, string>} keys  public keys in base64, by id
 * @param {number} nowMs
 * @returns {Promise<Catalogue>}
 */
export async function openCatalogue(signed, keys, nowMs) {
  const { catalogue, key, signature } = JSON.parse(signed);
  if (!Object.hasOwn(keys, key)) throw new Error(`the catalogue is signed with key ${key}, which is not among those trusted`);
  const content = bytesOf(catalogue);
  const context = new TextEncoder().encode(CONTEXT);
  const message = new Uint8Array(context.length + content.length);
  message.set(context);
  message.set(content, context.length);
  const publicKey = await crypto.subtle.importKey('raw', bytesOf(keys[key]), 'Ed25519', false, ['verify']);
  if (!(await crypto.subtle.verify('Ed25519', publicKey, bytesOf(signature), message))) throw new Error("the catalogue's signature is not good");
  const read = JSON.parse(new TextDecoder().decode(content));
  const untilMs = Number(read.until_ms);
  if (!(nowMs < untilMs)) throw new Error('the catalogue is out of date');
  return {
    version: String(read.version),
    issuedMs: Number(read.issued_ms),
    untilMs,
    ipconfs: (read.ipconfs ?? []).map(String),
    gateways: (read.gateways ?? []).map(gatewayOf),
  };
}

/**
 * The gateways of a list that a catalogue names, with their addresses.
 * @param {Gateway[]} gateways @param {Catalogue} catalogue
 */
export function inCatalogue(gateways, catalogue) {
  /** @param {Gateway} g */
  const text = (g) => JSON.stringify([g.region, g.id, g.url, g.pullUrl, g.streamUrl]);
  const named = new Set(catalogue.gateways.map(text));
  return gateways.filter((g) => named.has(text(g)));
}
