// @ts-check
// The API of dev (internal/console).

/** @typedef {'up' | 'down' | 'starting' | 'draining'} Power */
/**
 * @typedef {object} RegionState
 * @property {string} name
 * @property {string} origin
 * @property {Power} state
 * @property {string} ipconf
 * @property {number} submit_rate
 * @property {Record<string, number> | null} apply_lag
 * @property {number} [log]
 * @property {string} [note]
 * @property {Record<string, string>} [digests]
 */
/** @typedef {{from: string, to: string, state: 'open' | 'cut' | 'connecting', delay_ms: number, lag_records: number, lag_seconds: number, last_error?: string}} LinkState */
/** @typedef {{region: string, id: string, url: string, state: Power, conns: number, rate: number, epoch?: number}} GatewayState */
/** @typedef {{now_ms: number, version?: string, data?: string, regions: RegionState[], links: LinkState[], gateways: GatewayState[]}} State */
/** @typedef {{id: string, conversation?: string, sender?: string, root: string, start_us: number, duration_us: number, spans: number, regions: string[] | null, error?: boolean}} TraceLine */
/** @typedef {{id: string, parent?: string, name: string, region: string, service: string, start_us: number, duration_us: number, error?: string, attributes?: Record<string, string>}} Span */

/** @param {Response} response */
async function good(response) {
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.error ?? `${response.status} ${response.statusText}`);
}

/** @param {string} path */
async function get(path) {
  return (await good(await fetch(path, { signal: AbortSignal.timeout(5000) }))).json();
}

/** @param {string} path */
async function post(path) {
  await good(await fetch(path, { method: 'POST', headers: { 'X-Antipode-Console': '1' }, signal: AbortSignal.timeout(60000) }));
}

const at = encodeURIComponent;

export const dev = {
  /** @returns {Promise<State>} */
  state: () => get('/dev/state.json'),
  /** @returns {Promise<{region: string, ipconf: string, certificate?: string}[]>} */
  endpoints: async () => (await get('/dev/endpoints.json')).regions,
  /** @param {string} uid @returns {Promise<{token: string, expiresMs: number}>} */
  token: async (uid) => {
    const { token, expires_ms } = await get(`/dev/token?uid=${at(uid)}`);
    return { token, expiresMs: expires_ms };
  },
  /** @returns {Promise<TraceLine[]>} */
  traces: async () => (await get('/dev/traces?limit=40')).traces,
  /** @param {string} id @returns {Promise<Span[]>} */
  spans: async (id) => (await get(`/dev/traces/${at(id)}`)).spans,

  /** @param {string} from @param {string} to */
  cut: (from, to) => post(`/dev/links/${at(from)}/${at(to)}/cut`),
  /** @param {string} from @param {string} to */
  heal: (from, to) => post(`/dev/links/${at(from)}/${at(to)}/heal`),
  /** @param {string} from @param {string} to @param {number} ms */
  delay: (from, to, ms) => post(`/dev/links/${at(from)}/${at(to)}/delay?ms=${ms}`),
  /** @param {string} region @param {string} id @param {'kill' | 'restart'} order */
  gateway: (region, id, order) => post(`/dev/gateways/${at(region)}/${at(id)}/${order}`),
  /** @param {string} region @param {'kill' | 'restart'} order */
  region: (region, order) => post(`/dev/regions/${at(region)}/${order}`),
};
