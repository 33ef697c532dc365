// Elements and numbers. Text is set as text: nothing here reads a string as markup.
const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null && child !== ''));
  return node;
}
const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);
// A name breaks after its dots before it breaks anywhere.
const dotted = (name) => el('bdi', {}, ...name.split('.').flatMap((part, i, all) =>
  (i < all.length - 1 ? [`${part}.`, el('wbr')] : [part])));
const byId = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat('en-US');
const count = (n) => (n == null ? '–' : whole.format(n));
const UNITS = [[1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']];
function short(n) {
  if (n == null) return '–';
  const [size, letter] = UNITS.find(([least]) => n >= least) || [1, ''];
  return size === 1 ? count(n) : `${Number((n / size).toPrecision(3))} ${letter}`;
}
// Not Math.min(...values), which fails on a hundred thousand of them.
const extent = (values) => values.reduce(
  ([least, most], x) => [Math.min(least, x), Math.max(most, x)], [Infinity, -Infinity]);
const times = (x) => `${x >= 100 ? count(Math.round(x)) : Number(x.toPrecision(3))}×`;
const many = (n, one, more) => `${count(n)} ${n === 1 ? one : more || one + 's'}`;

const data = JSON.parse(byId('data').textContent);
const { banks: B, layers: L, fixed: F, texts: T } = data;
