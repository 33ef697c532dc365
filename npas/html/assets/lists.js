// What is kept as it is, and what changed since another plan.
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
    { head: 'Reason', kind: 'name', cell: ([i]) => el('bdi', {}, T[F.reason[i]]) },
    { head: 'Names', kind: 'number', cell: (indices) => count(indices.length) },
    { head: 'Parameters', kind: 'number', cell: (indices) => count(sum(indices)) },
    { head: 'Counts against the budget', cell: frozen },
  ], { empty: 'Everything is allocated.' }).show([...reasons.values()]);
  if (!F.name.length) return;
  const inside = el('div', {});
  const fold = el('details', {}, el('summary', {}, `All ${many(F.name.length, 'name')}`), inside);
  const open = () => {
    if (!fold.open || inside.firstChild) return;
    new Paged(inside, 'Parameters that are kept', [
      { head: 'Parameter', kind: 'name', cell: (i) => dotted(F.name[i]) },
      { head: 'Elements', kind: 'number', cell: (i) => count(F.n[i]) },
      { head: 'Reason', cell: (i) => T[F.reason[i]] },
    ]).show(F.name.map((_, i) => i));
  };
  fold.addEventListener('toggle', open);
  host.append(fold);
}

const KINDS = { bank: 'Banks', layer: 'Layers', fixed: 'Kept parameters' };
const STATES = ['added', 'removed', 'changed'];

function value(x) {
  if (x === null) return 'none';
  if (x === true || x === false) return x ? 'yes' : 'no';
  return typeof x === 'number' ? count(x) : x;
}
function moved(before, after) {
  if (typeof before !== 'number' || typeof after !== 'number') return '';
  if (before === after) return '0';
  return (after > before ? '+' : '−') + count(Math.abs(after - before));
}

function changesSection() {
  const { changes } = data;
  if (!changes) return;
  const sizes = byId('changes-sizes');
  new Paged(sizes, 'The two plans, before and after', [
    { head: 'Of the plan', kind: 'name', cell: ([name]) => name },
    { head: 'Before', kind: 'number', cell: ([, before]) => value(before) },
    { head: 'After', kind: 'number', cell: ([, , after]) => value(after) },
    { head: 'Difference', kind: 'number', cell: ([, before, after]) => moved(before, after) },
  ]).show([
    ...changes.plan.filter(([name]) => typeof changes.after[name] === 'undefined' &&
      !['n_params', 'budget_params', 'n_fixed'].includes(name)),
    ...Object.keys(changes.after).map((name) =>
      [name, changes.before[name], changes.after[name]]),
  ]);
  const host = byId('changes-rows');
  const chosen = { kind: '', state: '', text: '' };
  const tools = el('div', { class: 'tools', role: 'search', 'aria-label': 'Changes' });
  const rows = new Paged(host, 'What changed', [
    { head: 'Name', kind: 'name', cell: ([kind, name]) =>
      [el('span', { class: 'kind' }, kind === 'fixed' ? 'kept' : kind), ' ', dotted(name)] },
    { head: 'Change', cell: ([, , how]) => el('span', { class: `state ${how}` }, how) },
    { head: 'Before and after', kind: 'wide', cell: ([, , , fields]) => el('ul', { class: 'bare changes' },
      ...fields.map(([field, before, after]) => el('li', {},
        field ? el('b', {}, `${field} `) : null,
        before === null && !field ? null : el('del', {}, value(before)),
        !field ? null : el('span', { 'aria-label': 'to' }, ' → '),
        after === null && !field ? null : el('ins', {}, value(after))))) },
  ], { empty: 'No such change.', size: 25 });
  const show = () => rows.show(changes.rows.filter(([kind, name, how]) =>
    (!chosen.kind || kind === chosen.kind) && (!chosen.state || how === chosen.state) &&
    name.toLowerCase().includes(chosen.text)));
  const search = el('input', { type: 'search', autocomplete: 'off', spellcheck: 'false' });
  search.addEventListener('input', () => {
    chosen.text = search.value.trim().toLowerCase();
    show();
  });
  const choice = (label, field, options) => {
    const select = el('select', {}, el('option', { value: '' }, 'All'),
      ...options.map(([own, text]) => el('option', { value: own }, text)));
    select.addEventListener('change', () => {
      chosen[field] = select.value;
      show();
    });
    return control(label, select);
  };
  const total = (kind) => STATES.reduce((n, how) => n + changes.counts[kind][how], 0);
  const all = (how) => Object.keys(KINDS).reduce((n, kind) => n + changes.counts[kind][how], 0);
  tools.append(control('Search names', search),
    choice('Of', 'kind', Object.entries(KINDS).map(([own, text]) =>
      [own, `${text} (${count(total(own))})`])),
    choice('Change', 'state', STATES.map((how) => [how, `${how} (${count(all(how))})`])));
  host.before(tools);
  show();
}
