// The banks: size, what is generated from them, how their elements are used, what they cost.
function banksSection() {
  const known = B.macs.some((macs) => macs != null);
  const learned = (i) => B.coefficients[i] + B.embeddings[i] + B.projection[i];
  const name = (i) => {
    const button = el('button', { type: 'button', class: 'to-layers' },
      el('span', { class: `dot ${hue(i)}`, 'aria-hidden': 'true' }), B.name[i],
      el('span', { class: 'sr' }, ': show its layers'));
    button.addEventListener('click', () => {
      showBank(i);
      byId('layers').scrollIntoView();
      focusOn(0);
    });
    return [button, el('span', { class: 'also' }, T[B.reason[i]])];
  };
  const number = (head, value) => ({ head, kind: 'number', cell: (i) => count(value(i)) });
  const sized = (head, value) => ({
    head, kind: 'number', cell: (i) => el('span', { title: count(value(i)) }, short(value(i))),
  });
  const columns = [
    { head: 'Bank', kind: 'name', cell: name },
    number('Elements', (i) => B.size[i]),
    number('Layers', (i) => B.layers[i]),
    { head: 'Sharing', kind: 'number', cell: (i) => times(B.generated[i] / B.size[i]) },
    { head: 'Use of its parts', kind: 'bar', cell: (i) => [strip(i),
      el('span', { class: 'also' }, used(i))] },
    number('Coefficients', learned),
    number('Masks, scales', (i) => B.masks[i] + B.scales[i]),
    number('Parameters', (i) => B.total[i]),
    sized('MACs to generate', (i) => B.generation[i]),
  ];
  if (known) columns.push(sized('MACs a sample', (i) => B.macs[i]));
  new Paged(byId('banks-rows'), 'Banks', columns, { size: 25 }).show(B.name.map((_, i) => i));
}
