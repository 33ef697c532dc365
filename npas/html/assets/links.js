// Addresses: what stands after # says what is looked at, so that it survives a reload and can be
// sent. `layer` or `alike` (layers in one row, by the first of them) is pinned; `bank` is shown;
// `of`, `find`, `every` and `sort` are how the layers are listed.
const address = (parts) => `#${new URLSearchParams(parts)}`;

const firstNamed = new Map();
L.name.forEach((name, i) => {
  if (!firstNamed.has(name)) firstNamed.set(name, i);
});
// Long names are cut, so two may look the same: the place in the plan tells them apart.
function layerParts(i, key = 'layer') {
  const name = L.name[i];
  return firstNamed.get(name) === i ? { [key]: name } : { [key]: name, at: i };
}
function layerAsked(asked, key) {
  const name = asked.get(key);
  if (name === null) return -1;
  const at = Number(asked.get('at') || -1);
  return L.name[at] === name ? at : firstNamed.get(name) ?? -1;
}

const link = (parts, attributes, ...children) =>
  el('a', { href: address(parts), ...attributes }, ...children);
const layerLink = (i, attributes) => link(layerParts(i), attributes, dotted(L.name[i]));
const bankLink = (bank, attributes = {}) => link({ bank: B.name[bank] }, { class: 'of-bank', title: B.name[bank], ...attributes },
  el('span', { class: `dot ${hue(bank)}`, 'aria-hidden': 'true' }), B.name[bank]);

// Comes to a row at once; on a small screen above the panel, which lies over the lower part.
function bringIn(line) {
  const small = matchMedia('(max-width: 1000px)').matches;
  line.scrollIntoView({ block: small ? 'nearest' : 'center', behavior: 'instant' });
}

// The address follows what is looked at; a browser counts how often, so not at every key.
let later;
function keepAddress(parts) {
  clearTimeout(later);
  later = setTimeout(() => {
    const text = String(new URLSearchParams(parts));
    if (text || location.hash.includes('=')) history.replaceState(null, '', `#${text || 'layers'}`);
  }, 150);
}

// A link to where the address is already is followed too.
function followLinks(go) {
  const follow = () => {
    clearTimeout(later);
    if (location.hash.includes('=')) go(new URLSearchParams(location.hash.slice(1)));
  };
  addEventListener('hashchange', follow);
  document.addEventListener('click', (event) => {
    const found = event.target.closest('a[href*="="]');
    if (found && found.getAttribute('href') === location.hash) follow();
  });
  follow();
}
