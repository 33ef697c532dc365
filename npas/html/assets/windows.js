// Where templates lie in a bank, drawn: a bar of 1000 units is the bank.
const WIDE = 1000;
const HIGH = 20;
const LEAST = 3; // units: what is narrower would not be seen
const MOST_BLOCKS = 64;
const MOST_PARTS = 400;
const MOST_TILES = 4;
const APART = 14; // units: blocks that are wider have a line between them
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

// Rectangles of { size, base, stride, k, n }: a bank's size, a layer's windows in it, its elements.
function blocks({ size, base, stride, k, n }) {
  if (k === 0) {
    // The whole bank, once for each tile.
    const rows = Math.min(MOST_TILES, Math.ceil(n / size));
    const height = (16 - 2 * (rows - 1)) / rows;
    return Array.from({ length: rows }, (_, row) =>
      svg('rect', { ...place([0, size], size), y: 2 + row * (height + 2), height }));
  }
  if (k > MOST_BLOCKS) {
    return [svg('rect', { ...place([base, base + (k - 1) * stride + n], size), y: 2, height: 16 })];
  }
  // Templates that overlap take turns above and below.
  const lanes = k > 1 && n - stride > 0.02 * n;
  return Array.from({ length: k }, (_, at) => {
    const start = base + at * stride;
    const where = place([start, start + n], size);
    const names = [at % 2 && !lanes && 'odd', where.width > APART && 'apart'].filter(Boolean);
    return svg('rect', {
      ...where, y: lanes && at % 2 ? 11 : 2, height: lanes ? 7 : 16, class: names.join(' ') || null,
    });
  });
}
const windowsIn = (i) => ({
  size: B.size[L.bank[i]], base: L.base[i], stride: L.stride[i], k: L.k[i], n: L.n[i],
});

function bankBar({ hue: own, ...windows }, inside = blocks(windows)) {
  return svg('svg', {
    class: `bar ${own}`, viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: 'none',
    'aria-hidden': 'true',
  }, svg('rect', { class: 'track', width: WIDE, height: HIGH, rx: 2 }), ...inside,
  svg('rect', { class: 'band', width: 0, y: 0, height: HIGH }));
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
  const own = hue(bank);
  if (members.length === 1) return bankBar({ hue: own, ...windowsIn(members[0]) });
  return bankBar({ hue: own }, parts.slice(0, MOST_PARTS).map(([start, end, layers]) => svg('rect', {
    ...place([start, end], n), y: 2, height: 16, opacity: (0.3 + (0.7 * layers) / most).toFixed(2),
  })));
}

// How many layers use each part of a bank.
function strip(bank, marks = []) {
  const cover = B.cover[bank] || [1];
  const [least, most] = [B.least[bank], B.most[bank]];
  const bins = [];
  for (let from = 0, to; from < cover.length; from = to) {
    for (to = from + 1; cover[to] === cover[from]; to += 1);
    const at = (bin) => Math.round((WIDE * bin) / cover.length);
    bins.push(svg('rect', {
      x: at(from), width: at(to) - at(from), height: HIGH,
      opacity: (most === least ? 1 : 0.4 + (0.6 * (cover[from] - least)) / (most - least)).toFixed(2),
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
