// @ts-check
// The chat page: puts the client and the parts of the page together.
//
// The address presets the questions: ?as=ann&region=eu&to=bob

import { Client, direct, isUID } from '../../sdk/antipode.js';
import { dev } from '../dev.js';
import { byID, h, soon, text, toast } from '../dom.js';
import { icon } from '../icons.js';
import { knowRegions } from '../regions.js';
import { themed } from '../theme.js';
import { members, newChat, newGroup, showDetails } from './dialogs.js';
import { List } from './list.js';
import { Pane } from './pane.js';
import { avatar, SUGGESTED } from './people.js';
import { ask } from './start.js';
import { showStatus } from './status.js';

themed(byID('theme'));
byID('back').append(icon('back'));
byID('send').append(icon('send'));
byID('users').append(...SUGGESTED.map((uid) => h('option', { value: uid })));

const query = new URLSearchParams(location.search);
const preset = { uid: query.get('as') ?? '', region: query.get('region') ?? '' };

dev.endpoints().then(
  (endpoints) => {
    const regions = endpoints.map((endpoint) => endpoint.region);
    knowRegions(regions);
    if (!regions.includes(preset.region)) preset.region = '';
    if (isUID(preset.uid)) run(preset, endpoints);
    else ask(regions, preset, (answer) => run(answer, endpoints));
  },
  (error) => toast(`This page found no Antipode behind it: ${error.message}`, { bad: true }),
);

/**
 * @param {{uid: string, region: string}} who
 * @param {{region: string, ipconf: string, certificate?: string}[]} endpoints
 */
function run({ uid, region }, endpoints) {
  byID('start').hidden = true;
  byID('chat').hidden = false;
  const me = byID('me');
  me.replaceChildren(avatar(uid, { small: true }), h('span', { class: 'uid' }, uid));
  me.hidden = false;

  const preferred = endpoints.filter((endpoint) => endpoint.region === region);
  const rest = endpoints.filter((endpoint) => endpoint.region !== region);
  const client = new Client({
    uid,
    region,
    ipconf: [...preferred, ...rest].map((endpoint) => endpoint.ipconf),
    certificates: [...new Set(endpoints.flatMap(({ certificate }) => certificate ?? []))],
    token: () => dev.token(uid),
    agent: 'antipode-chat-page/1',
  });
  let current = '';
  const conversation = () => (current ? client.sync.conversation(current) : undefined);

  const list = new List((id) => open(id));
  const pane = new Pane({
    details: (entry) => {
      const shown = conversation();
      if (shown) showDetails(shown, entry);
    },
    resend: (entry) => void client.resend(current, entry),
  });
  const drawMembers = members(client, conversation);

  const draw = soon(() => {
    const all = client.conversations();
    list.draw(all, current);
    pane.draw(current ? client.typing.who(current) : []);
    const unread = all.reduce((sum, c) => sum + (c.id === current ? 0 : c.unread), 0);
    document.title = `${unread ? `(${unread}) ` : ''}${uid} · Antipode chat`;
    if (current && document.visibilityState === 'visible') client.markRead(current);
  });

  /** @param {string} id */
  function open(id) {
    current = id;
    byID('chat').dataset.showing = 'conversation';
    pane.show(client.open(id));
    remember(id);
    draw();
    byID('text').focus();
  }

  /** Keeps the address such that a reload returns here. @param {string} id */
  function remember(id) {
    const to = client.sync.conversation(id);
    const address = new URLSearchParams({ as: uid, ...(region && { region }), ...(id && (to.isGroup ? { in: id } : { to: to.others[0] ?? uid })) });
    history.replaceState(null, '', `?${address}`);
  }

  client.on('changed', (changed) => {
    if (changed.id === current) drawMembers();
    draw();
  });
  showStatus(client);
  newChat(client, open);
  newGroup(client, open);
  compose(client, () => current, () => pane.toEnd());
  byID('chat').dataset.showing = 'list';
  byID('back').addEventListener('click', () => {
    byID('chat').dataset.showing = 'list';
    current = '';
    client.close();
    draw();
  });
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState !== 'visible') return;
    client.wake();
    draw();
  });
  addEventListener('pagehide', () => client.stop());
  addEventListener('pageshow', (event) => event.persisted && location.reload());

  client.start();
  const to = query.get('to') ?? '';
  const group = query.get('in') ?? '';
  if (isUID(to)) open(direct(uid, to));
  else if (/^[gs]:/.test(group)) open(group);
  draw();
}

/**
 * The message box: Enter sends, Shift+Enter begins a line.
 * @param {Client} client @param {() => string} current @param {() => void} sent
 */
function compose(client, current, sent) {
  const field = byID('text', HTMLTextAreaElement);
  const form = byID('composer', HTMLFormElement);
  const problem = byID('composer-problem');
  const bytes = new TextEncoder();
  const fit = () => {
    field.style.height = 'auto';
    field.style.height = `${field.scrollHeight + 2}px`;
    const over = bytes.encode(field.value).length - client.maxText;
    text(problem, over > 0 ? `Too long by ${over} bytes` : '');
  };
  field.addEventListener('input', () => {
    fit();
    if (current()) client.typing.tell(current(), field.value === '');
  });
  field.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const words = field.value.trim();
    if (!words || !current() || problem.textContent) return;
    client.send(current(), words, { ack: byID('global', HTMLInputElement).checked ? 'global' : 'region' });
    field.value = '';
    fit();
    sent();
    field.focus();
  });
}
