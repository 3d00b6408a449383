// @ts-check
// The first question: who are you, and where?

import { isUID } from '../../sdk/antipode.js';
import { byID, h } from '../dom.js';
import { regionTag } from '../regions.js';
import { suggest, SUGGESTED } from './people.js';

/**
 * Asks, and calls back with the answer.
 * @param {string[]} regions @param {{uid: string, region: string}} preset
 * @param {(answer: {uid: string, region: string}) => void} answered
 */
export function ask(regions, preset, answered) {
  const field = byID('start-uid', HTMLInputElement);
  field.value = preset.uid;
  suggest(byID('start-suggestions'), field, SUGGESTED);
  byID('start-regions').replaceChildren(
    ...['', ...regions].map((region) =>
      h('label', {},
        h('input', { type: 'radio', name: 'region', value: region, checked: region === preset.region }),
        h('span', { class: 'choice' }, region ? regionTag(region) : 'Nearest'),
      ),
    ),
  );
  const form = byID('start-form', HTMLFormElement);
  form.onsubmit = (event) => {
    event.preventDefault();
    const uid = field.value.trim();
    if (!isUID(uid)) {
      byID('start-problem').textContent = 'A user name has 1 to 64 of a–z, A–Z, 0–9, dot, underscore, @ and hyphen.';
      field.focus();
      return;
    }
    answered({ uid, region: String(new FormData(form).get('region') ?? '') });
  };
  byID('start').hidden = false;
  field.focus();
}
