// @ts-check
// Numbers in words.

/** Seconds of lag. @param {number} seconds */
export function lag(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** How bad a lag is: one that people notice, one that somebody should look at. @param {number} seconds @returns {'' | 'warn' | 'bad'} */
export function grave(seconds) {
  return seconds >= 5 ? 'bad' : seconds >= 1 ? 'warn' : '';
}

/** A rate per second. @param {number} rate */
export function perSecond(rate) {
  return rate >= 100 ? Math.round(rate).toLocaleString('en') : rate.toFixed(1);
}

/** @param {number} n */
export const whole = (n) => Math.round(n).toLocaleString('en');

/** Milliseconds from microseconds. @param {number} us */
export function millis(us) {
  const ms = us / 1000;
  if (ms >= 10000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 100 ? Math.round(ms) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });

/** @param {number} ms */
export const time = (ms) => clock.format(ms);
