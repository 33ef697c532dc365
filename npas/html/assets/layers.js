// Layers against banks: the rows, the search, and one layer that is looked at.
const MOST_OPTIONS = 500;
const rowOf = new Map(); // layer -> its row of layers that are alike
data.rows.forEach((row) => row[1].forEach((i) => rowOf.set(i, row)));
const searched = L.name.map((name, i) =>
  [name, ...(data.aliases[i] || [])].join('\n').toLowerCase());

const state = { text: '', bank: -1, fold: data.rows.length > 0, open: new Set(), pinned: null };
let table; // of rows { title, members, part }
let told;
let looked = null;

// A row of alike layers stands as one only where all of them were asked for.
function visibleRows() {
  const text = state.text.toLowerCase();
  const fits = (i) =>
    (state.bank < 0 || L.bank[i] === state.bank) && (!text || searched[i].includes(text));
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
  told.textContent = n === L.name.length ? many(n, 'layer')
    : `${count(n)} of ${many(L.name.length, 'layer')}`;
}

function nameCell(row) {
  const { title, members: indices } = row;
  const pick = el('button', {
    type: 'button', class: 'pick', tabindex: -1, 'aria-pressed': String(state.pinned === key(row)),
  }, dotted(title));
  const aliases = indices.length === 1 && data.aliases[indices[0]];
  const also = aliases && el('span', { class: 'also' },
    `= ${aliases[0]}${aliases.length > 1 ? ` and ${aliases.length - 1} more` : ''}`);
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

const key = ({ members: indices }) => `${indices[0]}+${indices.length}`;

function bankCell({ members: indices }) {
  const first = L.bank[indices[0]];
  const last = L.bank[indices[indices.length - 1]];
  const name = B.name[first] + (first === last ? '' : ` to ${B.name[last]}`);
  return el('span', { class: 'of-bank', title: name },
    el('span', { class: `dot ${hue(first)}`, 'aria-hidden': 'true' }), name);
}

function sharesCell({ members: indices }) {
  const [least, most] = extent(indices.map((i) => L.shares[i]));
  return least === most ? count(most) : `${count(least)}–${count(most)}`;
}

const COLUMNS = [
  { head: 'Layer', kind: 'name', cell: nameCell },
  { head: 'Kind', cell: ({ members: [i] }) => T[L.kind[i]] },
  { head: 'Shape', cell: ({ members: [i] }) => el('span', { class: 'shape' }, T[L.shape[i]]) },
  { head: 'Made by', cell: ({ members: [i] }) => made(i) },
  { head: 'K', kind: 'number', cell: ({ members: [i] }) => (L.k[i] ? count(L.k[i]) : '0') },
  { head: 'Bank', cell: bankCell },
  { head: 'Shares with', kind: 'number', cell: sharesCell },
  { head: 'Templates in the bank', kind: 'bar', cell: ({ members: indices }) => bar(indices) },
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
  panel.replaceChildren(...[
    el('div', { class: 'details-top' },
      el('h3', {}, dotted(row.title)), pinned ? close : null),
    ...(indices.length > 1 ? describeAlike(indices) : describe(indices[0])),
  ].filter((node) => node));
  panel.classList.toggle('pinned', pinned);
  mark();
  if (aloud) {
    const [i] = indices;
    byId('spoken').textContent = indices.length > 1
      ? `${many(indices.length, 'layer')}, ${made(i)}, bank ${B.name[L.bank[i]]}`
      : `${made(i)}, bank ${B.name[L.bank[i]]}, ${windowsOf(i)[0]}, ` +
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

function letGo() {
  const inside = byId('details').contains(document.activeElement);
  state.pinned = null;
  if (looked) look(looked);
  const at = table.rows.indexOf(looked) - table.first;
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
    const row = !event.target.closest('.unfold') && rowAt(event.target);
    if (!row) return;
    state.pinned = state.pinned === key(row) ? null : key(row);
    look(row, true);
    const line = event.target.closest('tr');
    if (state.pinned !== null) line.scrollIntoView({ block: 'nearest' });
  });
  const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  body.addEventListener('keydown', (event) => {
    const step = event.target.matches('.pick') && steps[event.key];
    if (!step) return;
    event.preventDefault();
    const at = picks().indexOf(event.target) + step;
    const { first, size, rows } = table;
    if (at < 0 && step === -1 && first > 0) {
      table.show(rows, first - size);
      focusOn(size - 1);
    } else if (at >= size && step === 1 && first + size < rows.length) {
      table.show(rows, first + size);
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

let bankSelect;
function showBank(bank) {
  if (![...bankSelect.options].some((option) => Number(option.value) === bank)) {
    bankSelect.append(el('option', { value: bank }, B.name[bank]));
  }
  bankSelect.value = bank;
  state.bank = bank;
  update();
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
  const search = el('input', { type: 'search', autocomplete: 'off', spellcheck: 'false' });
  search.addEventListener('input', () => {
    state.text = search.value.trim();
    update();
  });
  bankSelect = el('select', {}, el('option', { value: -1 }, 'All banks'),
    ...B.name.slice(0, MOST_OPTIONS).map((name, i) =>
      el('option', { value: i }, `${name} (${many(B.layers[i], 'layer')})`)));
  bankSelect.addEventListener('change', () => {
    state.bank = Number(bankSelect.value);
    update();
  });
  const fold = el('input', { type: 'checkbox' });
  fold.addEventListener('change', () => {
    state.fold = !fold.checked;
    update();
  });
  told = el('p', { class: 'told', role: 'status' });
  byId('layers-tools').append(control('Search names', search), control('Bank', bankSelect),
    data.rows.length
      ? el('label', { class: 'tool check' }, fold, el('span', {}, 'Show every layer')) : '', told);
  watch();
  update();
  if (table.rows.length) look(table.rows[0]);
  bands = true;
}
