// The banks: size, what is generated from them, how their elements are used, what they cost.
let bankTable;
function banksSection() {
  const known = B.macs.some((macs) => macs != null);
  const learned = (i) => B.coefficients[i] + B.embeddings[i] + B.projection[i];
  const name = (i) => [
    link({ of: B.name[i] }, { class: 'to-layers' },
      el('span', { class: `dot ${hue(i)}`, 'aria-hidden': 'true' }), B.name[i],
      el('span', { class: 'sr' }, ': show its layers')),
    el('span', { class: 'also' }, T[B.reason[i]]),
  ];
  const number = (head, by, title, kind = 'number') =>
    ({ head, title, kind, by, cell: (i) => count(by(i)) });
  const sized = (head, by, title) => ({
    head, title, kind: 'number spare', by, cell: (i) => el('span', { title: count(by(i)) }, short(by(i))),
  });
  const columns = [
    { head: 'Bank', kind: 'name', cell: name, by: (i) => B.name[i] },
    number('Elements', (i) => B.size[i]),
    number('Layers', (i) => B.layers[i]),
    {
      head: 'Sharing', kind: 'number', title: 'Elements of the weights made from it, over its own',
      by: (i) => B.generated[i] / B.size[i], cell: (i) => times(B.generated[i] / B.size[i]),
    },
    { head: 'Use of its parts', kind: 'bar', by: (i) => B.most[i], cell: (i) => [strip(i),
      el('span', { class: 'also' }, used(i))] },
    number('Coefficients', learned, 'Coefficients, embeddings and projections, all trained', 'number spare'),
    number('Masks, scales', (i) => B.masks[i] + B.scales[i], 'Trained too', 'number spare'),
    number('Parameters', (i) => B.total[i], 'All that trains: elements, coefficients, masks'),
    sized('MACs to generate', (i) => B.generation[i], 'Multiply-accumulates that make its weights once'),
  ];
  if (known) columns.push(sized('MACs a sample', (i) => B.macs[i], 'Of its layers'));
  bankTable = new Paged(byId('banks-rows'), 'Banks', columns, { size: 25 });
  bankTable.show(B.name.map((_, i) => i));
}

function showBank(bank) {
  bankTable.body.querySelectorAll('.looked').forEach((line) => line.classList.remove('looked'));
  const line = bankTable.lineOf(bank);
  line.classList.add('looked');
  line.querySelector('a').focus({ preventScroll: true });
  bringIn(line);
}
