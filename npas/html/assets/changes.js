// What changed since another plan.
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

// What is in this plan has an address in this page.
function linked(kind, name) {
  if (kind === 'layer' && firstNamed.has(name)) return layerLink(firstNamed.get(name));
  if (kind === 'bank' && B.name.includes(name)) return bankLink(B.name.indexOf(name));
  return dotted(name);
}
const hueNamed = (bank) => (B.name.includes(bank) ? hue(B.name.indexOf(bank)) : 'plain');

function changesSection() {
  const { changes } = data;
  if (!changes) return;
  const sizes = byId('changes-sizes');
  new Paged(sizes, 'The two plans, before and after', [
    { head: 'Of the plan', kind: 'name', cell: ([name]) => name },
    { head: 'Before', kind: 'number', cell: ([, before]) => value(before) },
    { head: 'After', kind: 'number', cell: ([, , after]) => value(after) },
    { head: 'Difference', kind: 'number', cell: ([, before, after]) => moved(before, after) },
  ], {
    decorate: (line, [, before, after]) => line.classList.toggle('same', before === after),
  }).show([
    ...changes.plan.filter(([name]) => typeof changes.after[name] === 'undefined' &&
      !['n_params', 'budget_params', 'n_fixed'].includes(name)),
    ...Object.keys(changes.after).map((name) =>
      [name, changes.before[name], changes.after[name]]),
  ]);
  const host = byId('changes-rows');
  const chosen = { kind: '', state: '', text: '' };
  const tools = el('div', { class: 'tools', role: 'search', 'aria-label': 'Changes' });
  const rows = new Paged(host, 'What changed', [
    { head: 'Name', kind: 'name', cell: ([kind, name]) => [
      el('span', { class: 'kind' }, kind === 'fixed' ? 'kept' : kind), ' ', linked(kind, name)],
    by: ([, name]) => name },
    { head: 'Change', cell: ([, , how]) => el('span', { class: `state ${how}` }, how), by: ([, , how]) => how },
    {
      head: 'In the bank, before and after', kind: 'bar', cell: ([, , , , before, after]) => [
        before && bankBar({ ...before, hue: 'plain' }), after && bankBar({ ...after, hue: hueNamed(after.bank) })],
    },
    { head: 'What differs', kind: 'wide', cell: ([, , , fields]) => el('ul', { class: 'bare changes' },
      ...fields.map(([field, before, after]) => el('li', {},
        field ? el('b', {}, `${field} `) : null,
        before === null && !field ? null : el('del', {}, value(before)),
        !field ? null : el('span', { 'aria-label': 'to' }, ' → '),
        after === null && !field ? null : el('ins', {}, value(after))))) },
  ], { empty: 'No such change.', size: 25 });
  const told = el('p', { class: 'told', role: 'status' });
  const show = () => {
    const found = changes.rows.filter(([kind, name, how]) =>
      (!chosen.kind || kind === chosen.kind) && (!chosen.state || how === chosen.state) &&
      name.toLowerCase().includes(chosen.text));
    rows.show(found);
    told.textContent = found.length === changes.rows.length ? many(found.length, 'change')
      : `${count(found.length)} of ${many(changes.rows.length, 'change')}`;
  };
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
    choice('Change', 'state', STATES.map((how) => [how, `${how} (${count(all(how))})`])),
    el('div', { class: 'found' }, told));
  host.before(tools);
  show();
}
