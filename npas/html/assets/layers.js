// Layers against banks: the rows, the search, and one layer that is looked at.
const MOST_OPTIONS = 500;
const rowOf = new Map(); // layer -> its row of layers that are alike
data.rows.forEach((row) => row[1].forEach((i) => rowOf.set(i, row)));
const searched = L.name.map((name, i) =>
  [name, ...(data.aliases[i] || [])].join('\n').toLowerCase());

const state = { text: '', bank: -1, fold: data.rows.length > 0, open: new Set(), pinned: null };
const tools = {}; // search, banks, every, told
let table; // of rows { title, members, part }
let looked = null;

const fits = (i) => (state.bank < 0 || L.bank[i] === state.bank) &&
  (!state.text || searched[i].includes(state.text.toLowerCase()));

// A row of alike layers stands as one only where all of them were asked for.
function visibleRows() {
  const rows = [];
  const seen = new Map(); // row of alike layers -> whether it stands as one
  let n = 0;
  for (let i = 0; i < L.name.length; i += 1) {
    if (!fits(i)) continue;
    n += 1;
    const row = state.fold && rowOf.get(i);
    const first = row && !seen.has(row);
    if (first) seen.set(row, row[1].every(fits));
    if (!row || !seen.get(row)) {
      rows.push({ title: L.name[i], members: [i] });
    } else if (first) {
      rows.push({ title: row[0], members: row[1], row });
      if (state.open.has(row)) {
        row[1].forEach((j) => rows.push({ title: L.name[j], members: [j], part: true }));
      }
    }
  }
  return [rows, n];
}

function update(first = 0) {
  const [rows, n] = visibleRows();
  table.show(rows, first);
  tools.told.textContent = n === L.name.length ? many(n, 'layer')
    : `${count(n)} of ${many(L.name.length, 'layer')}`;
  tools.clear.hidden = n === L.name.length && !state.text && state.bank < 0;
  remember();
}

const key = ({ members: indices }) => `${indices[0]}+${indices.length}`;

function remember() {
  const { order } = table;
  const pinned = state.pinned !== null && state.pinned.split('+').map(Number);
  keepAddress({
    ...(state.bank >= 0 && { of: B.name[state.bank] }),
    ...(state.text && { find: state.text }),
    ...(data.rows.length && !state.fold && { every: 1 }),
    ...(order && { sort: `${order.down ? '-' : ''}${order.column.id}` }),
    ...(pinned && layerParts(pinned[0], pinned[1] > 1 ? 'alike' : 'layer')),
  });
}

function nameCell(row) {
  const { title, members: indices } = row;
  const pick = el('button', {
    type: 'button', class: 'pick', tabindex: -1, 'aria-pressed': String(state.pinned === key(row)),
  }, dotted(title));
  const aliases = indices.length === 1 && data.aliases[indices[0]];
  const also = aliases && el('span', { class: 'also' },
    '= ', el('bdi', {}, aliases[0]), aliases.length > 1 ? ` and ${aliases.length - 1} more` : '');
  if (indices.length === 1) return [pick, also || null];
  const open = state.open.has(row.row);
  const unfold = el('button', { type: 'button', class: 'unfold', 'aria-expanded': String(open) },
    `${many(indices.length, 'layer')}`);
  unfold.addEventListener('click', () => {
    state.open[open ? 'delete' : 'add'](row.row);
    const at = table.rows.indexOf(row);
    update(table.first);
    const again = table.body.rows[at - table.first];
    if (again) again.querySelector('.unfold').focus();
  });
  return [pick, unfold];
}

function bankCell({ members: indices }) {
  const first = L.bank[indices[0]];
  const last = L.bank[indices[indices.length - 1]];
  return first === last ? bankLink(first, { tabindex: -1 })
    : [bankLink(first, { tabindex: -1 }), ' to ', bankLink(last, { tabindex: -1 })];
}

function sharesCell({ members: indices }) {
  const [least, most] = extent(indices.map((i) => L.shares[i]));
  return least === most ? count(most) : `${count(least)}–${count(most)}`;
}


const COLUMNS = [
  { id: 'layer', head: 'Layer', kind: 'name', cell: nameCell, by: ({ title }) => title },
  {
    id: 'weight', head: 'Weight', title: 'Kind and shape', by: ({ members: [i] }) => `${T[L.kind[i]]} ${T[L.shape[i]]}`,
    cell: ({ members: [i] }) => el('span', { class: T[L.kind[i]].length > 20 ? 'weight long' : 'weight' },
      `${T[L.kind[i]]} `, el('span', { class: 'shape' }, T[L.shape[i]])),
  },
  {
    id: 'elements', head: 'Elements', kind: 'number spare', title: 'Elements of the weight',
    by: ({ members: [i] }) => L.n[i], cell: ({ members: [i] }) => count(L.n[i]),
  },
  {
    id: 'made', head: 'Made by', title: 'How the weight is made, and from how many templates',
    by: ({ members: [i] }) => `${made(i)} ${L.k[i]}`,
    cell: ({ members: [i] }) => el('span', { class: 'made' },
      L.k[i] > 1 ? `${made(i)} ×${count(L.k[i])}` : made(i)),
  },
  { id: 'bank', head: 'Bank', cell: bankCell, by: ({ members: [i] }) => B.name[L.bank[i]] },
  {
    id: 'shares', head: 'Shares', kind: 'number', cell: sharesCell,
    title: 'Other layers that use some of the same elements',
    by: ({ members: indices }) => extent(indices.map((i) => L.shares[i]))[1],
  },
  ...(L.macs.some((macs) => macs != null) ? [{
    id: 'macs', head: 'MACs', kind: 'number spare', title: 'Multiply-accumulates a sample',
    by: ({ members: [i] }) => L.macs[i],
    cell: ({ members: [i] }) => el('span', { title: count(L.macs[i]) }, short(L.macs[i])),
  }] : []),
  {
    id: 'place', head: 'In the bank', kind: 'bar', title: 'Where its templates lie, from the first element of the bank to its last',
    by: ({ members: indices }) => extent(indices.map((i) => spanOf(i)[0]))[0] /
      B.size[L.bank[indices[0]]],
    cell: ({ members: indices }) => bar(indices),
  },
];

// What is looked at: its details, and a band over the other bars of its bank.
let bands = false; // not before something is pointed at
function look(row, aloud = false) {
  looked = row;
  const panel = byId('details');
  const close = el('button', { type: 'button', class: 'close' }, 'Close');
  close.addEventListener('click', letGo);
  const pinned = state.pinned !== null && state.pinned === key(row);
  const indices = row.members;
  const alike = indices.length > 1;
  panel.replaceChildren(...[
    el('div', { class: 'details-top' },
      el('h3', {}, link(layerParts(indices[0], alike ? 'alike' : 'layer'),
        { title: 'A link to this' }, dotted(row.title))), pinned ? close : null),
    ...(alike ? describeAlike(indices) : describe(indices[0])),
  ].filter((node) => node));
  panel.classList.toggle('pinned', pinned);
  mark();
  if (aloud) {
    const [i] = indices;
    byId('spoken').textContent = alike
      ? `${many(indices.length, 'layer')}, ${made(i)}, bank ${B.name[L.bank[i]]}`
      : `${made(i)}, bank ${B.name[L.bank[i]]}, ${windowsOf(i)[0]}, coefficients: ${coefficients(i)}, ` +
        `shares elements with ${many(L.shares[i], 'layer')}`;
  }
}

function mark() {
  if (!looked) return;
  const single = looked.members.length === 1;
  const bank = L.bank[looked.members[0]];
  const span = spanOf(looked.members[0]);
  [...table.body.rows].forEach((line, at) => {
    const { members: indices } = table.rows[table.first + at];
    const own = key({ members: indices }) === key(looked);
    const shares = single && !own &&
      indices.some((i) => L.bank[i] === bank && overlap(span, spanOf(i)));
    line.classList.toggle('looked', own);
    line.classList.toggle('shares', shares);
    const band = line.querySelector('.band');
    const { x, width } = place(span, B.size[bank]);
    band.setAttribute('x', x);
    band.setAttribute('width', bands && shares ? width : 0);
    line.querySelector('.pick').setAttribute('aria-pressed', own && state.pinned === key(looked));
  });
}

function pin(row) {
  state.pinned = row && key(row);
  remember();
}

function letGo() {
  const inside = byId('details').contains(document.activeElement);
  pin(null);
  if (looked) look(looked);
  const at = table.rows.findIndex((row) => looked && key(row) === key(looked)) - table.first;
  if (inside) focusOn(at >= 0 ? at : 0);
}

const picks = () => [...table.body.querySelectorAll('.pick')];
function focusOn(at) {
  const all = picks();
  all.forEach((pick) => pick.setAttribute('tabindex', -1));
  const pick = all[Math.max(0, Math.min(at, all.length - 1))];
  if (!pick) return;
  pick.setAttribute('tabindex', 0);
  pick.focus();
}

const rowAt = (node) => {
  const line = node.closest && node.closest('tbody tr');
  return line && table.rows[table.first + line.sectionRowIndex];
};

function watch() {
  const { body } = table;
  body.addEventListener('pointerover', (event) => {
    const row = event.pointerType === 'mouse' && state.pinned === null && rowAt(event.target);
    if (row && row !== looked) look(row);
  });
  body.addEventListener('focusin', (event) => {
    const row = event.target.matches('.pick') && rowAt(event.target);
    if (row && state.pinned === null) look(row, true);
  });
  body.addEventListener('click', (event) => {
    const row = !event.target.closest('.unfold, a') && rowAt(event.target);
    if (!row) return;
    pin(state.pinned === key(row) ? null : row);
    look(row, true);
    const line = event.target.closest('tr');
    if (state.pinned !== null) line.scrollIntoView({ block: 'nearest' });
  });
  const folds = { ArrowRight: 'false', ArrowLeft: 'true' };
  body.addEventListener('keydown', (event) => {
    const unfold = event.target.matches('.pick') && event.key in folds &&
      event.target.closest('tr').querySelector('.unfold');
    if (!unfold || unfold.getAttribute('aria-expanded') !== folds[event.key]) return;
    event.preventDefault();
    const at = picks().indexOf(event.target);
    unfold.click();
    focusOn(at);
  });
  const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  body.addEventListener('keydown', (event) => {
    const step = event.target.matches('.pick') && steps[event.key];
    if (!step) return;
    event.preventDefault();
    const at = picks().indexOf(event.target) + step;
    const { first, size, rows } = table;
    if (at < 0 && step === -1 && first > 0) {
      table.first = first - size;
      table.draw();
      focusOn(size - 1);
    } else if (at >= size && step === 1 && first + size < rows.length) {
      table.first = first + size;
      table.draw();
      focusOn(0);
    } else focusOn(at);
  });
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && state.pinned !== null) letGo();
  });
}

function control(label, node) {
  return el('label', { class: 'tool' }, el('span', {}, label), node);
}

// Sets what is listed, and the tools that say so.
function listLayers({ text = '', bank = -1, fold = state.fold } = {}) {
  Object.assign(state, { text, bank, fold });
  tools.search.value = text;
  if (![...tools.banks.options].some((option) => Number(option.value) === bank)) {
    tools.banks.append(el('option', { value: bank }, B.name[bank]));
  }
  tools.banks.value = bank;
  if (tools.every) tools.every.checked = !fold;
  update();
}

// Shows a layer, or the row of layers that are alike, pinned.
function showLayer(i, alike) {
  if (!fits(i)) listLayers();
  const group = state.fold && rowOf.get(i);
  if (group && !alike) state.open.add(group);
  update();
  const own = (row) => (alike && group ? row.row === group : row.members.length === 1 && row.members[0] === i);
  const row = table.rows.find(own);
  pin(row);
  const line = table.lineOf(row);
  look(row, true);
  focusOn(line.sectionRowIndex);
  bringIn(line);
}

function layersSection() {
  table = new Paged(byId('layers-rows'), 'Layers and their templates in their banks', COLUMNS, {
    empty: 'No layer is called so. Clear the search, or choose all banks.',
    decorate: (line, row) => {
      if (row.part) line.classList.add('part');
      if (row.row) line.classList.add('alike');
    },
  });
  table.drawn = () => {
    const [first] = picks();
    if (first) first.setAttribute('tabindex', 0);
    mark();
  };
  table.changed = remember;
  tools.search = el('input', { type: 'search', autocomplete: 'off', spellcheck: 'false' });
  tools.search.addEventListener('input', () => {
    state.text = tools.search.value.trim();
    update();
  });
  tools.search.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowDown' && event.key !== 'Enter') return;
    event.preventDefault();
    focusOn(0);
  });
  tools.banks = el('select', {}, el('option', { value: -1 }, 'All banks'),
    ...B.name.slice(0, MOST_OPTIONS).map((name, i) =>
      el('option', { value: i }, `${name} (${many(B.layers[i], 'layer')})`)));
  tools.banks.addEventListener('change', () => {
    state.bank = Number(tools.banks.value);
    update();
  });
  tools.told = el('p', { class: 'told', role: 'status' });
  tools.clear = el('button', { type: 'button', class: 'clear' }, 'Show all');
  tools.clear.addEventListener('click', () => {
    listLayers();
    tools.search.focus();
  });
  if (data.rows.length) {
    tools.every = el('input', { type: 'checkbox' });
    tools.every.addEventListener('change', () => {
      state.fold = !tools.every.checked;
      update();
    });
  }
  byId('layers-tools').append(control('Search names', tools.search), control('Bank', tools.banks),
    tools.every ? el('label', { class: 'tool check' }, tools.every, el('span', {}, 'Show every layer')) : '',
    el('div', { class: 'found' }, tools.told, tools.clear));
  watch();
  update();
  if (table.rows.length) look(table.rows[0]);
  bands = true;
}

// What an address asks for: how layers are listed, then the layer.
function goToLayers(asked) {
  const bank = B.name.indexOf(asked.get('of'));
  const column = COLUMNS.find(({ id }) => id === (asked.get('sort') || '').replace(/^-/, ''));
  const lists = ['of', 'find', 'every', 'sort'].some((part) => asked.has(part));
  if (column) table.sort({ column, down: asked.get('sort').startsWith('-') });
  if (lists) {
    pin(null);
    listLayers({
      bank, text: asked.get('find') || '', fold: data.rows.length > 0 && !asked.has('every'),
    });
  }
  const [one, alike] = ['layer', 'alike'].map((part) => layerAsked(asked, part));
  if (one >= 0 || alike >= 0) showLayer(Math.max(one, alike), alike >= 0);
  else if (lists) {
    byId('layers').scrollIntoView();
    if (table.rows.length) {
      look(table.rows[0]);
      focusOn(0);
    }
  }
}
