// @ts-check
// New chat, new group, members, details of a message.

import { AntipodeError, direct, formatPlace, isUID, stampMillis, traceID } from '../../sdk/antipode.js';
import { formatCursor } from '../../sdk/cursor.js';
import { byID, closable, h, toast } from '../dom.js';
import { regionTag } from '../regions.js';
import { avatar, split, suggest, SUGGESTED } from './people.js';
import { names, progressWords } from './words.js';

/** @typedef {import('../../sdk/antipode.js').Client} Client */
/** @typedef {import('../../sdk/conversation.js').Conversation} Conversation */
/** @typedef {import('../../sdk/timeline.js').Entry} Entry */

/** @param {unknown} error */
const words = (error) => (error instanceof AntipodeError ? error.detail || error.code.replaceAll('_', ' ') : String(error));

/** @param {string} uid */
const notAName = (uid) => `“${uid}” is no user name: use letters, digits, dot, underscore, @ and hyphen.`;

/**
 * @param {Client} client @param {(id: string) => void} open
 */
export function newChat(client, open) {
  const dialog = byID('chat-dialog', HTMLDialogElement);
  const field = byID('chat-uid', HTMLInputElement);
  const problem = byID('chat-problem');
  closable(dialog);
  suggest(byID('chat-suggestions'), field, SUGGESTED.filter((uid) => uid !== client.uid));
  byID('new-chat').addEventListener('click', () => {
    field.value = problem.textContent = '';
    dialog.showModal();
  });
  dialog.querySelector('form')?.addEventListener('submit', (event) => {
    const uid = field.value.trim();
    if (!isUID(uid)) {
      event.preventDefault();
      problem.textContent = uid ? notAName(uid) : 'Whom do you want to write to?';
      field.focus();
      return;
    }
    open(direct(client.uid, uid));
  });
}

/**
 * @param {Client} client @param {(id: string) => void} open
 */
export function newGroup(client, open) {
  const dialog = byID('group-dialog', HTMLDialogElement);
  const title = byID('group-title', HTMLInputElement);
  const members = byID('group-members', HTMLInputElement);
  const create = byID('group-create', HTMLButtonElement);
  const problem = byID('group-problem');
  closable(dialog);
  suggest(byID('group-suggestions'), members, SUGGESTED.filter((uid) => uid !== client.uid), true);
  byID('new-group').addEventListener('click', () => {
    title.value = members.value = problem.textContent = '';
    dialog.showModal();
  });
  dialog.querySelector('form')?.addEventListener('submit', async (event) => {
    event.preventDefault();
    const uids = split(members.value);
    const wrong = uids.find((uid) => !isUID(uid));
    if (!title.value.trim() || wrong || uids.length === 0) {
      problem.textContent = wrong ? notAName(wrong) : uids.length === 0 ? 'Who else is in it?' : 'What is it called?';
      return;
    }
    create.disabled = true;
    try {
      const id = await client.createGroup(title.value.trim(), uids);
      dialog.close();
      open(id);
    } catch (error) {
      problem.textContent = `The group was not created: ${words(error)}`;
    } finally {
      create.disabled = false;
    }
  });
}

/**
 * @param {Client} client @param {() => Conversation | undefined} current
 * @returns {() => void} draws the list again
 */
export function members(client, current) {
  const dialog = byID('members-dialog', HTMLDialogElement);
  const field = byID('members-uid', HTMLInputElement);
  const problem = byID('members-problem');
  closable(dialog);

  /** @param {{add?: string[], remove?: string[]}} change */
  const change = async (change) => {
    const conversation = current();
    if (!conversation) return;
    problem.textContent = '';
    try {
      await client.changeMembers(conversation.id, change);
      toast(change.add ? `Added ${names(change.add)}` : `Removed ${names(change.remove ?? [])}`);
      if (change.remove?.includes(client.uid)) dialog.close();
      else await client.members(conversation.id);
    } catch (error) {
      problem.textContent = words(error);
    }
    draw();
  };
  const draw = () => {
    const conversation = current();
    if (!conversation || !dialog.open) return;
    byID('members-list').replaceChildren(
      ...conversation.members.map((uid) =>
        h('li', {}, avatar(uid, { small: true }), h('span', { class: 'who' }, uid === client.uid ? `${uid} (you)` : uid),
          h('button', { type: 'button', class: 'small danger', 'aria-label': uid === client.uid ? 'Leave the group' : `Remove ${uid}`, onclick: () => change({ remove: [uid] }) },
            uid === client.uid ? 'Leave' : 'Remove')),
      ),
    );
  };
  byID('members').addEventListener('click', () => {
    const conversation = current();
    if (!conversation) return;
    field.value = problem.textContent = '';
    dialog.showModal();
    draw();
    client.members(conversation.id).then(draw, (error) => (problem.textContent = words(error)));
  });
  byID('members-add', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault();
    const uids = split(field.value);
    const wrong = uids.find((uid) => !isUID(uid));
    if (wrong) problem.textContent = notAName(wrong);
    else if (uids.length > 0) {
      field.value = '';
      void change({ add: uids });
    }
  });
  return draw;
}

/**
 * Shows everything about a message: where it stands, who has it, where to follow its trace.
 * @param {Conversation} conversation @param {Entry} entry
 */
export function showDetails(conversation, entry) {
  const dialog = byID('details-dialog', HTMLDialogElement);
  const { place } = entry;
  /** @type {[string, (Node | string)[]][]} */
  const lines = [
    ['From', [entry.sender]],
    ['Accepted', place ? [new Date(stampMillis(place.stamp)).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'medium' }), ' in ', regionTag(place.origin)] : ['not yet']],
    ['Place', [h('code', {}, place && place.seq > 0n ? formatPlace(place) : 'follows with its record')]],
    ['Id', [h('code', {}, entry.clientId)]],
  ];
  if (entry.seqs.size > 1 || [...entry.seqs.values()].some((seqs) => seqs.length > 1)) {
    lines.push(['Repeats', [h('code', {}, [...entry.seqs].map(([origin, seqs]) => `${origin}=${seqs.join('+')}`).join(', '))]]);
  }
  if (entry.late) lines.push(['Late', ['It came after later messages were shown here, and took its place among them.']]);
  if (entry.global !== undefined) lines.push(['Ack', [entry.global ? 'global: a second region holds it' : 'region only: no peer confirmed in time']]);
  if (entry.sender === conversation.uid) {
    const progress = conversation.progress(entry);
    lines.push(['State', [progressWords(progress)]]);
    for (const uid of progress.others) {
      const receipt = conversation.receipts.get(uid);
      lines.push([uid, [h('code', {}, `delivered ${formatCursor(receipt?.delivered ?? new Map()) || '–'} · read ${formatCursor(receipt?.read ?? new Map()) || '–'}`)]]);
    }
  }
  byID('details').replaceChildren(...lines.flatMap(([term, value]) => [h('dt', {}, term), h('dd', {}, ...value)]));
  const trace = traceID(entry.trace || entry.record?.trace);
  const link = byID('details-trace', HTMLAnchorElement);
  link.hidden = !trace;
  link.href = `/console#trace=${trace}`;
  dialog.showModal();
}

closable(byID('details-dialog', HTMLDialogElement));
