// Where templates lie in a bank, drawn: a bar of 1000 units is the bank.
const WIDE = 1000;
const HIGH = 20;
const LEAST = 3; // units: what is narrower would not be seen
const MOST_BLOCKS = 64;
const MOST_PARTS = 400;
const HUES = 6;

const hue = (bank) => (B.ordinary[bank] ? 'plain' : `hue${bank % HUES}`);

function spanOf(i) {
  if (L.k[i] === 0) return [0, B.size[L.bank[i]]];
  return [L.base[i], L.base[i] + (L.k[i] - 1) * L.stride[i] + L.n[i]];
}
const overlap = (a, b) => a[0] < b[1] && b[0] < a[1];

function place([start, end], n) {
  const width = Math.max(LEAST, (WIDE * (end - start)) / n);
  return { x: Math.min((WIDE * start) / n, WIDE - width).toFixed(2), width: width.toFixed(2) };
}

function blocks(i) {
  const n = B.size[L.bank[i]];
  if (L.k[i] === 0) return [svg('rect', { ...place([0, n], n), y: 2, height: 16, class: 'whole' })];
  if (L.k[i] > MOST_BLOCKS) return [svg('rect', { ...place(spanOf(i), n), y: 2, height: 16 })];
  // Templates that overlap take turns above and below.
  const lanes = L.k[i] > 1 && L.n[i] - L.stride[i] > 0.02 * L.n[i];
  return Array.from({ length: L.k[i] }, (_, k) => {
    const start = L.base[i] + k * L.stride[i];
    const y = lanes && k % 2 ? 11 : 2;
    return svg('rect', {
      ...place([start, start + L.n[i]], n), y, height: lanes ? 7 : 16,
      class: k % 2 && !lanes ? 'odd' : null,
    });
  });
}

// Where the number of layers changes: [start, end, layers], for parts that one uses at least.
function pile(spans) {
  const steps = new Map();
  for (const [start, end] of spans) {
    steps.set(start, (steps.get(start) || 0) + 1);
    steps.set(end, (steps.get(end) || 0) - 1);
  }
  const parts = [];
  let [layers, from] = [0, 0];
  for (const at of [...steps.keys()].sort((a, b) => a - b)) {
    if (layers) parts.push([from, at, layers]);
    layers += steps.get(at);
    from = at;
  }
  return parts;
}

// One layer's templates, or those of several layers: the darker, the more of them.
function bar(members) {
  const bank = L.bank[members[0]];
  const n = B.size[bank];
  const one = members.every((i) => L.bank[i] === bank);
  const parts = members.length === 1 ? [] : pile(one ? members.map(spanOf) : [[0, n]]);
  const [, most] = extent(parts.map(([, , layers]) => layers));
  const inside = members.length === 1 ? blocks(members[0])
    : parts.slice(0, MOST_PARTS).map(([start, end, layers]) => svg('rect', {
      ...place([start, end], n), y: 2, height: 16,
      opacity: (0.3 + (0.7 * layers) / most).toFixed(2),
    }));
  return svg('svg', {
    class: `bar ${hue(bank)}`, viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: 'none',
    'aria-hidden': 'true',
  }, svg('rect', { class: 'track', width: WIDE, height: HIGH, rx: 2 }), ...inside,
  svg('rect', { class: 'band', width: 0, y: 0, height: HIGH }));
}

// How many layers use each part of a bank.
function strip(bank, marks = []) {
  const cover = B.cover[bank] || [1];
  const most = Math.max(...cover);
  const bins = [];
  for (let from = 0, to; from < cover.length; from = to) {
    for (to = from + 1; cover[to] === cover[from]; to += 1);
    const at = (bin) => Math.round((WIDE * bin) / cover.length);
    bins.push(svg('rect', {
      x: at(from), width: at(to) - at(from), height: HIGH,
      opacity: (0.12 + (0.88 * cover[from]) / most).toFixed(3),
    }));
  }
  const marked = marks.map((span) =>
    svg('rect', { class: 'mark', ...place(span, B.size[bank]), y: 0, height: HIGH }));
  return svg('svg', {
    class: `bar strip ${hue(bank)}`, viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: 'none',
    role: 'img', 'aria-label': `Layers that use each part of bank ${B.name[bank]}: ${used(bank)}`,
  }, ...bins, ...marked);
}

function used(bank) {
  const { least, most } = B;
  return least[bank] === most[bank]
    ? `${many(most[bank], 'layer')} on every element`
    : `${count(least[bank])} to ${count(most[bank])} layers on an element`;
}
