// The columns of the layers: what a cell shows, and what it is sorted by.
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
