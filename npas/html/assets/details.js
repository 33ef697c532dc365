// What there is to say of one layer, or of layers that are alike.
const MOST_LISTED = 12;

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

function sharing(i) {
  const mine = spanOf(i);
  return members(L.bank[i]).filter((j) => j !== i && overlap(mine, spanOf(j)));
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

function list(texts) {
  const more = texts.length - MOST_LISTED;
  const items = texts.slice(0, MOST_LISTED).map((text) => el('li', {}, dotted(text)));
  if (more > 0) items.push(el('li', { class: 'muted' }, `and ${count(more)} more`));
  return el('ol', { class: 'bare' }, ...items);
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
    ([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
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
      ['Also called', aliases ? list(aliases) : null],
      ['Bank', `${B.name[bank]}, ${count(B.size[bank])} elements`],
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
    list(windowsOf(i)),
    el('h4', {}, others.length
      ? `Shares elements with ${count(others.length)} of ${many(rest, 'other layer')}`
      : rest ? `Shares no element with the ${many(rest, 'other layer')}` : 'Alone in its bank'),
    others.length ? list(others.map((j) => L.name[j])) : null,
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
      ['Bank', banks.size > 1 ? `${count(banks.size)}, each of ${count(B.size[L.bank[i]])}`
        : `${B.name[L.bank[i]]}, ${count(B.size[L.bank[i]])} elements`],
      ['Made by', HOW[made(i)](i)],
      ['Coefficients', `${coefficients(i)}${made(i) === 'ordinary' ? '' : ' each'}`],
      ['Share with', least === most ? many(most, 'other layer') + ' each'
        : `${count(least)} to ${count(most)} other layers each`],
    ]),
    el('h4', {}, many(places.size, 'place')),
    banks.size > 1 ? null : strip(L.bank[i], [...places.values()].map(([span]) => span)),
    list([...places.values()].sort(([[a]], [[b]]) => a - b).map(([span, n]) => `${range(span)}: ${many(n, 'layer')}`)),
  ];
}
