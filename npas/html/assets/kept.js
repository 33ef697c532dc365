// What is kept as it is, by reason and by name.
function keptSection() {
  const host = byId('kept-rows');
  const reasons = new Map();
  F.name.forEach((_, i) => {
    const own = `${F.reason[i]}:${F.trainable[i]}`;
    if (!reasons.has(own)) reasons.set(own, []);
    reasons.get(own).push(i);
  });
  const sum = (indices) => indices.reduce((n, i) => n + F.n[i], 0);
  const frozen = (indices) => (F.trainable[indices[0]] ? 'yes' : 'no, it is frozen');
  new Paged(host, 'Parameters that are kept, by reason', [
    {
      head: 'Reason', kind: 'name', cell: ([i]) => el('bdi', {}, T[F.reason[i]]),
      by: ([i]) => T[F.reason[i]],
    },
    {
      head: 'Tensors', kind: 'number', cell: (indices) => count(indices.length),
      by: (indices) => indices.length,
    },
    { head: 'Parameters', kind: 'number', cell: (indices) => count(sum(indices)), by: sum },
    { head: 'Counts against the budget', cell: frozen, by: frozen },
  ], { empty: 'Everything is allocated.' }).show([...reasons.values()]);
  if (!F.name.length) return;
  const inside = el('div', {});
  const fold = el('details', {}, el('summary', {}, F.name.length === 1 ? 'Its name' : `All ${count(F.name.length)} names`), inside);
  const open = () => {
    if (!fold.open || inside.firstChild) return;
    new Paged(inside, 'Parameters that are kept', [
      { head: 'Name', kind: 'name', cell: (i) => dotted(F.name[i]), by: (i) => F.name[i] },
      { head: 'Parameters', kind: 'number', cell: (i) => count(F.n[i]), by: (i) => F.n[i] },
      {
        head: 'Reason', cell: (i) => el('span', { class: 'weight long' }, T[F.reason[i]]),
        by: (i) => T[F.reason[i]],
      },
    ]).show(F.name.map((_, i) => i));
  };
  fold.addEventListener('toggle', open);
  host.append(fold);
}
