// @ts-check
// Times and happenings in words.

/** @typedef {import('../../sdk/conversation.js').Conversation} Conversation */
/** @typedef {import('../../sdk/timeline.js').Entry} Entry */

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const date = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const long = new Intl.DateTimeFormat('en-GB', { weekday: 'long', day: 'numeric', month: 'long' });

/** @param {number} ms */
const midnight = (ms) => new Date(ms).setHours(0, 0, 0, 0);

/** @param {number} ms */
export const time = (ms) => clock.format(ms);

/** The time of today, or the day. @param {number} ms */
export function when(ms) {
  return midnight(ms) === midnight(Date.now()) ? clock.format(ms) : date.format(ms);
}

/** @param {number} ms */
export function day(ms) {
  const ago = Math.round((midnight(Date.now()) - midnight(ms)) / 86400000);
  return ago === 0 ? 'Today' : ago === 1 ? 'Yesterday' : long.format(ms);
}

/** The key of a day, to tell days apart. @param {number} ms */
export const dayKey = midnight;

/** @param {string[]} names */
export function names(names) {
  return names.length < 2 ? (names[0] ?? 'nobody') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}

/**
 * What happened to a group.
 * @param {Entry} entry @param {string} uid  of whoever reads
 */
export function happening({ record, sender, kind }, uid) {
  /** @param {string} name */
  const you = (name) => (name === uid ? 'you' : name);
  const who = sender === uid ? 'You' : sender;
  if (kind === 'create') return `${who} created the group “${record?.create?.title ?? ''}”`;
  if (kind === 'settings') return `${who} named the group “${record?.settings?.title ?? ''}”`;
  const add = (record?.member?.add ?? []).map(you);
  const remove = record?.member?.remove ?? [];
  const left = remove.length === 1 && remove[0] === sender && add.length === 0;
  if (left) return `${who} left`;
  return [add.length > 0 && `added ${names(add)}`, remove.length > 0 && `removed ${names(remove.map(you))}`]
    .filter(Boolean)
    .reduce((line, part, i) => (i === 0 ? `${line} ${part}` : `${line} and ${part}`), who) || who;
}

/**
 * A line for the list.
 * @param {Entry} entry @param {Conversation} conversation
 */
export function snippet(entry, conversation) {
  if (entry.kind !== 'message') return happening(entry, conversation.uid);
  const text = entry.text.replace(/\s+/g, ' ').slice(0, 120);
  if (entry.sender === conversation.uid) return `You: ${text}`;
  return conversation.isGroup ? `${entry.sender}: ${text}` : text;
}

/**
 * How far an own message is, in words.
 * @param {ReturnType<Conversation['progress']>} progress
 */
export function progressWords({ tick, delivered, read, others }) {
  if (tick === 'sending') return 'Sending';
  if (tick === 'failed') return 'Not sent';
  if (others.length === 0) return 'Accepted';
  if (tick === 'read') return `Read by ${names(read)}`;
  if (read.length > 0) return `Read by ${names(read)}, delivered to ${delivered.length} of ${others.length}`;
  if (tick === 'delivered') return `Delivered to ${names(delivered)}`;
  if (delivered.length > 0) return `Delivered to ${names(delivered)}`;
  return 'Accepted';
}

/** @param {string[]} uids */
export const typing = (uids) => `${names(uids)} ${uids.length === 1 ? 'is' : 'are'} typing…`;
