// What is looked at: pointed at, focused or pinned. Its details, and a band over the other bars of
// its bank.
let bands = false; // not before something is pointed at
function look(row, aloud = false) {
  looked = row;
  const panel = byId('details');
  const close = el('button', { type: 'button', class: 'close' }, 'Close');
  close.addEventListener('click', letGo);
  const pinned = state.pinned !== null && state.pinned === key(row);
  const indices = row.members;
  const alike = indices.length > 1;
  panel.replaceChildren(...[
    el('div', { class: 'details-top' },
      el('h3', {}, link(layerParts(indices[0], alike ? 'alike' : 'layer'),
        { title: 'A link to this' }, dotted(row.title))), pinned ? close : null),
    ...(alike ? describeAlike(indices) : describe(indices[0])),
  ].filter((node) => node));
  panel.classList.toggle('pinned', pinned);
  mark();
  if (aloud) {
    const [i] = indices;
    byId('spoken').textContent = alike
      ? `${many(indices.length, 'layer')}, ${made(i)}, bank ${B.name[L.bank[i]]}`
      : `${made(i)}, bank ${B.name[L.bank[i]]}, ${windowsOf(i)[0]}, coefficients: ${coefficients(i)}, ` +
        `shares elements with ${many(L.shares[i], 'layer')}`;
  }
}

function mark() {
  if (!looked) return;
  const single = looked.members.length === 1;
  const bank = L.bank[looked.members[0]];
  const span = spanOf(looked.members[0]);
  [...table.body.rows].forEach((line, at) => {
    const { members: indices } = table.rows[table.first + at];
    const own = key({ members: indices }) === key(looked);
    const shares = single && !own &&
      indices.some((i) => L.bank[i] === bank && overlap(span, spanOf(i)));
    line.classList.toggle('looked', own);
    line.classList.toggle('shares', shares);
    const band = line.querySelector('.band');
    const { x, width } = place(span, B.size[bank]);
    band.setAttribute('x', x);
    band.setAttribute('width', bands && shares ? width : 0);
    line.querySelector('.pick').setAttribute('aria-pressed', own && state.pinned === key(looked));
  });
}

function pin(row) {
  state.pinned = row && key(row);
  remember();
}

function letGo() {
  const inside = byId('details').contains(document.activeElement);
  pin(null);
  if (looked) look(looked);
  const at = table.rows.findIndex((row) => looked && key(row) === key(looked)) - table.first;
  if (inside) focusOn(at >= 0 ? at : 0);
}

const picks = () => [...table.body.querySelectorAll('.pick')];
function focusOn(at) {
  const all = picks();
  all.forEach((pick) => pick.setAttribute('tabindex', -1));
  const pick = all[Math.max(0, Math.min(at, all.length - 1))];
  if (!pick) return;
  pick.setAttribute('tabindex', 0);
  pick.focus();
}

const rowAt = (node) => {
  const line = node.closest && node.closest('tbody tr');
  return line && table.rows[table.first + line.sectionRowIndex];
};

function watch() {
  const { body } = table;
  body.addEventListener('pointerover', (event) => {
    const row = event.pointerType === 'mouse' && state.pinned === null && rowAt(event.target);
    if (row && row !== looked) look(row);
  });
  body.addEventListener('focusin', (event) => {
    const row = event.target.matches('.pick') && rowAt(event.target);
    if (row && state.pinned === null) look(row, true);
  });
  body.addEventListener('click', (event) => {
    const row = !event.target.closest('.unfold, a') && rowAt(event.target);
    if (!row) return;
    pin(state.pinned === key(row) ? null : row);
    look(row, true);
    const line = event.target.closest('tr');
    if (state.pinned !== null) line.scrollIntoView({ block: 'nearest' });
  });
  const folds = { ArrowRight: 'false', ArrowLeft: 'true' };
  body.addEventListener('keydown', (event) => {
    const unfold = event.target.matches('.pick') && event.key in folds &&
      event.target.closest('tr').querySelector('.unfold');
    if (!unfold || unfold.getAttribute('aria-expanded') !== folds[event.key]) return;
    event.preventDefault();
    const at = picks().indexOf(event.target);
    unfold.click();
    focusOn(at);
  });
  const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  body.addEventListener('keydown', (event) => {
    const step = event.target.matches('.pick') && steps[event.key];
    if (!step) return;
    event.preventDefault();
    const at = picks().indexOf(event.target) + step;
    const { first, size, rows } = table;
    if (at < 0 && step === -1 && first > 0) {
      table.first = first - size;
      table.draw();
      focusOn(size - 1);
    } else if (at >= size && step === 1 && first + size < rows.length) {
      table.first = first + size;
      table.draw();
      focusOn(0);
    } else focusOn(at);
  });
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && state.pinned !== null) letGo();
  });
}
