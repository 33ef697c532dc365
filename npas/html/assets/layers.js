// Layers against banks: which rows there are, and the tools that choose them.
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
