// @ts-check
// The connection, in words: which gateway of which region serves, or what is being done about it.

import { byID, h } from '../dom.js';
import { regionTag } from '../regions.js';

/**
 * Draws the client's state and keeps the countdown of a wait going.
 * @param {import('../../sdk/antipode.js').Client} client
 */
export function showStatus(client) {
  const box = byID('status');
  const words = h('span', { class: 'words' });
  const rtt = h('span', { class: 'rtt' });
  const now = h('button', { class: 'small', type: 'button', onclick: () => client.wake() }, 'Try now');
  box.replaceChildren(h('span', { class: 'dot' }), words, rtt, now);
  box.hidden = false;
  let drawn = '';
  const draw = () => {
    const { phase, gateway, region, rttMs, retryAtMs, carrier, polling, error } = client.state;
    const seconds = Math.max(0, Math.ceil((retryAtMs - Date.now()) / 1000));
    box.dataset.phase = phase;
    box.title = phase === 'online' || !error ? '' : error.message;
    now.hidden = phase !== 'waiting' || seconds < 2;
    rtt.textContent = phase === 'online' && rttMs ? `${rttMs < 10 ? rttMs.toFixed(1) : Math.round(rttMs)} ms` : '';
    const key = `${phase} ${gateway} ${region} ${seconds} ${carrier} ${polling} ${error?.code}`;
    if (key === drawn) return;
    drawn = key;
    if (polling && phase !== 'stopped') return words.replaceChildren('No live connection; asking every few seconds');
    switch (phase) {
      case 'online':
        return words.replaceChildren('Connected to ', gateway, ' in ', regionTag(region), ...(carrier === 'WebSocket' ? [] : [` by ${carrier}`]));
      case 'connecting':
        return words.replaceChildren(region ? 'Reconnecting…' : 'Connecting…');
      case 'waiting':
        return words.replaceChildren(seconds > 1 ? `Connection lost. Next try in ${seconds} s` : 'Connection lost. Trying again…');
      case 'stopped':
        if (!error) return words.replaceChildren('Starting…');
        return words.replaceChildren(error.code === 'replaced' ? 'Signed in elsewhere with this device' : `Stopped: ${error.message}`);
    }
  };
  client.on('state', draw);
  setInterval(draw, 500);
  draw();
}
