// What there is to say of one layer, or of layers that are alike.
const MOST_LISTED = 12;
const MOST_UNFOLDED = 2000;
const MOST_MARKS = 12; // outlines in a strip; more would cover it

function made(i) {
  if (B.ordinary[L.bank[i]]) return 'ordinary';
  if (L.k[i] === 0) return T[L.up[i]];
  return L.k[i] === 1 ? 'window' : T[L.down[i]];
}

const HOW = {
  ordinary: () => 'Fills its bank exactly: an ordinary parameter, nothing is generated.',
  window: () => 'Uses its window of the bank as it is.',
  wavg: (i) => `${many(L.k[i], 'template')}, weighted by learned coefficients (WAvg).`,
  emb: (i) => `${many(L.k[i], 'template')}, weighted by coefficients from its embedding (Emb).`,
  avg: (i) => `${many(L.k[i], 'template')}, averaged.`,
  rr: (i) => `${many(L.k[i], 'template')}, taken in turn.`,
  mask: (i) => `Upsampled: ${tiles(i)}, those after the first times learned masks.`,
  repeat: (i) => `Upsampled: ${tiles(i)}, the bank repeated.`,
  inter: () => 'Upsampled by bilinear interpolation of the whole bank.',
};
const tiles = (i) => many(Math.ceil(L.n[i] / B.size[L.bank[i]]), 'tile');

function coefficients(i) {
  const how = made(i);
  if (how === 'wavg') return `${count(L.k[i])} learned`;
  if (how === 'emb') {
    return `${count(L.k[i])}, from an embedding of 24 and the bank's projection of ` +
      count(B.projection[L.bank[i]]);
  }
  if (L.masks[i]) return `none; ${count(L.masks[i])} elements of the bank's masks`;
  if (L.scale[i] && how !== 'ordinary') return 'none; one learned scalar';
  return 'none';
}

// [layer, elements in common] for the others that use some of a layer's elements, most first.
function sharing(i) {
  const [start, end] = spanOf(i);
  return members(L.bank[i]).filter((j) => j !== i).map((j) => {
    const [from, to] = spanOf(j);
    return [j, Math.min(end, to) - Math.max(start, from)];
  }).filter(([, n]) => n > 0).sort(([, a], [, b]) => b - a);
}

const membersOf = new Map();
function members(bank) {
  if (!membersOf.size) {
    L.bank.forEach((own, i) => {
      if (!membersOf.has(own)) membersOf.set(own, []);
      membersOf.get(own).push(i);
    });
  }
  return membersOf.get(bank);
}

// A list shows its first ones, and the rest when asked to.
function list(values, item) {
  const host = el('ol', { class: 'bare' });
  const write = (most) => {
    host.replaceChildren(...values.slice(0, most).map((value) => el('li', {}, item(value))));
    if (values.length > most) host.append(el('li', { class: 'muted' }, rest(most)));
  };
  const rest = (most) => {
    const more = values.length - most;
    if (most > MOST_LISTED) return `and ${count(more)} more`;
    const button = el('button', { type: 'button', class: 'unfold' }, `${count(more)} more`);
    button.addEventListener('click', () => {
      const at = most;
      write(MOST_UNFOLDED);
      const next = host.children[at].querySelector('a');
      (next || byId('details')).focus({ preventScroll: true });
    });
    return button;
  };
  write(MOST_LISTED);
  return host;
}
const range = ([start, end]) => `${count(start)} to ${count(end)}`;

function windowsOf(i) {
  if (L.k[i] === 0) return [`the whole bank, ${tiles(i)}`];
  return Array.from({ length: Math.min(L.k[i], 1000) }, (_, k) => {
    const start = L.base[i] + k * L.stride[i];
    return range([start, start + L.n[i]]);
  });
}

function facts(pairs) {
  return el('dl', { class: 'facts' }, ...pairs.filter(([, value]) => value != null).flatMap(
    ([name, value]) => [el('dt', {}, name), el('dd', {}, ...(Array.isArray(value) ? value : [value]))]));
}

function describe(i) {
  const bank = L.bank[i];
  const others = sharing(i);
  const rest = members(bank).length - 1;
  const aliases = data.aliases[i];
  return [
    facts([
      ['Weight', `${T[L.kind[i]]}, ${T[L.shape[i]]}`],
      ['Elements', `${count(L.n[i])} of ${T[L.dtype[i]]}`],
      ['Also called', aliases ? list(aliases, dotted) : null],
      ['Bank', [bankLink(bank), ` of ${many(B.size[bank], 'element')}`]],
      ['Together as', rest ? T[B.reason[bank]] : null],
      ['Made by', HOW[made(i)](i)],
      ['Coefficients', coefficients(i)],
      ['Base, stride', L.k[i] ? `${count(L.base[i])}, ${count(L.stride[i])}` : null],
      ['Read', L.uses[i] === 1 ? null : `${count(L.uses[i])} times in a forward pass`],
      ['A sample', L.macs[i] == null ? null : `${count(L.macs[i])} multiply-accumulates`],
      ['Padding', L.padding[i] == null ? null : `row ${count(L.padding[i])} stays zero`],
    ]),
    el('h4', {}, L.k[i] > 1 ? `${count(L.k[i])} windows` : 'Window'),
    strip(bank, [spanOf(i)]),
    list(windowsOf(i), (text) => text),
    L.k[i] ? el('p', { class: 'note' }, 'From the first element to the one after the last.') : null,
    el('h4', {}, others.length
      ? `Shares elements with ${count(others.length)} of ${many(rest, 'other layer')}`
      : rest ? `Shares no element with ${rest === 1 ? 'the other layer' : `the ${count(rest)} other layers`}` : 'Alone in its bank'),
    others.length ? list(others, ([j, n]) => el('span', { class: 'pair' }, layerLink(j),
      el('span', { class: 'muted', title: `${many(n, 'element')} in common` }, short(n)))) : null,
  ];
}

function describeAlike(indices) {
  const [i] = indices;
  const banks = new Set(indices.map((j) => L.bank[j]));
  const places = new Map();
  for (const j of indices) {
    const key = spanOf(j).join();
    places.set(key, [spanOf(j), (places.get(key) || [0, 0])[1] + 1]);
  }
  const [least, most] = extent(indices.map((j) => L.shares[j]));
  return [
    facts([
      ['Layers', `${count(indices.length)} that are alike`],
      ['Weight', `${T[L.kind[i]]}, ${T[L.shape[i]]}`],
      ['Elements', `${count(L.n[i])} of ${T[L.dtype[i]]} each`],
      ['Bank', banks.size > 1 ? `${count(banks.size)}, each of ${count(B.size[L.bank[i]])} elements`
        : [bankLink(L.bank[i]), ` of ${many(B.size[L.bank[i]], 'element')}`]],
      ['Made by', HOW[made(i)](i)],
      ['Coefficients', `${coefficients(i)}${made(i) === 'ordinary' ? '' : ' each'}`],
      ['Share with', least === most ? many(most, 'other layer') + ' each'
        : `${count(least)} to ${count(most)} other layers each`],
    ]),
    el('h4', {}, `${many(places.size, 'place')}, and how many layers have it`),
    banks.size > 1 ? null
      : places.size > MOST_MARKS ? bar(indices)
        : strip(L.bank[i], [...places.values()].map(([span]) => span)),
    list([...places.values()].sort(([[a]], [[b]]) => a - b),
      ([span, n]) => el('span', { class: 'pair' }, range(span),
        el('span', { class: 'muted', title: many(n, 'layer') }, count(n)))),
    el('h4', {}, 'The layers'),
    list(indices, (j) => layerLink(j)),
  ];
}
