// A table of any length, a page of rows at a time: only what is shown is in the document.
const PAGE = 100;
const MOST_PRINTED = 500;
const tables = [];

const inOrder = new Intl.Collator('en', { numeric: true }); // layers.9 before layers.10
const compare = (a, b) => (typeof a === 'number' ? a - b : inOrder.compare(a, b));

const counted = ({ kind }) => (kind || '').startsWith('number');

// Rows by a value of each; those without one stand last, whichever way. Parts stay below their row.
function sorted(rows, by, down) {
  const tops = [];
  for (const row of rows) {
    const unit = { value: by(row), row, parts: [] };
    (row.part ? tops[tops.length - 1].parts : tops).push(unit);
  }
  const order = ({ value: a }, { value: b }) => {
    if (a == null || b == null) return (a == null) - (b == null);
    return down ? compare(b, a) : compare(a, b);
  };
  const laid = (units) => units.sort(order).flatMap(({ row, parts }) => [row, ...laid(parts)]);
  return laid(tops);
}

class Paged {
  // columns: [{ head, title, id, cell(row) -> node or text, by(row) -> number, text or null,
  //   kind: 'number' | 'name' | 'bar' | 'wide' | undefined }]; a column with `by` sorts.
  constructor(host, caption, columns, { decorate = () => {}, empty = 'Nothing to show.', size = PAGE } = {}) {
    Object.assign(this, {
      columns, decorate, given: [], rows: [], first: 0, size, screen: size, order: null,
      changed: () => {},
    });
    this.body = el('tbody', { role: 'rowgroup' });
    this.said = el('p', { class: 'pages-said' });
    const turn = (text, step) => {
      const button = el('button', { type: 'button' }, text);
      button.addEventListener('click', () => this.turn(step));
      return button;
    };
    this.back = turn('Previous', -1);
    this.on = turn('Next', 1);
    this.pages = el('div', { class: 'pages' }, this.back, this.said, this.on);
    this.empty = el('p', { class: 'note', hidden: true }, empty);
    this.heads = columns.map((column) => this.head(column));
    this.table = el('table', { role: 'table', class: 'rows' },
      el('caption', { class: 'sr' }, caption),
      el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' }, ...this.heads)), this.body);
    this.sorter = this.choice();
    host.append(this.sorter, this.table, this.empty, this.pages);
    tables.push(this);
  }

  head(column) {
    const { head, title, kind, by } = column;
    const common = { scope: 'col', role: 'columnheader', class: kind };
    if (!by) return el('th', { ...common, title }, head);
    const button = el('button', { type: 'button', class: 'sort', title }, head);
    button.addEventListener('click', () => this.turnOrder(column));
    return el('th', { ...common, 'data-head': head }, button);
  }

  // The heads are not seen on a phone: there the order is chosen from a list.
  choice() {
    this.select = el('select', {}, el('option', { value: '' }, 'the plan'),
      ...this.columns.flatMap((column, i) => (column.by ? [false, true].map((down) =>
        el('option', { value: `${down ? '-' : ''}${i}` }, `${column.head}, ${this.way(column, down)}`)) : [])));
    this.select.addEventListener('change', () => {
      const { value } = this.select;
      const column = this.columns[Math.abs(Number(value))];
      this.sort(value === '' ? null : { column, down: value.startsWith('-') });
    });
    return el('label', { class: 'tool sort-by' }, el('span', {}, 'In the order of'), this.select);
  }

  way({ kind }, down) {
    if (counted({ kind })) return down ? 'most first' : 'fewest first';
    return down ? 'backwards' : 'forwards';
  }

  // Numbers begin with the largest, texts with the first; the third press is the plan's order.
  turnOrder(column) {
    const first = counted(column);
    const { order } = this;
    if (!order || order.column !== column) this.sort({ column, down: first });
    else if (order.down === first) this.sort({ column, down: !first });
    else this.sort(null);
  }

  sort(order) {
    this.order = order;
    this.heads.forEach((head, i) => {
      const own = order && this.columns[i] === order.column;
      if (own) head.setAttribute('aria-sort', order.down ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    this.select.value = order ? `${order.down ? '-' : ''}${this.columns.indexOf(order.column)}` : '';
    this.show(this.given);
    this.changed();
  }

  show(rows, first = 0) {
    const { order } = this;
    this.given = rows;
    this.rows = order ? sorted(rows, order.column.by, order.down) : rows;
    this.first = first;
    this.draw();
  }

  // Turns to the page of a row, and returns its line.
  lineOf(row) {
    const at = this.rows.indexOf(row);
    if (at < 0) return null;
    this.first = at;
    this.draw();
    return this.body.rows[at - this.first];
  }

  turn(step) {
    this.first += step * this.size;
    this.draw();
    this.table.scrollIntoView({ block: 'start' });
    // The button that was pressed may have gone dim: the other one takes the focus.
    if (document.activeElement === document.body || document.activeElement.disabled) {
      (step > 0 ? this.back : this.on).focus({ preventScroll: true });
    }
  }

  draw() {
    const { rows, size } = this;
    this.first = Math.max(0, Math.min(this.first, rows.length - 1));
    this.first -= this.first % size;
    const last = Math.min(this.first + size, rows.length);
    const drawn = rows.slice(this.first, last).map((row) => {
      const cells = this.columns.map(({ head, cell, kind }) => {
        const tag = kind === 'name' ? 'th' : 'td';
        const found = cell(row);
        const more = tag === 'th' ? { scope: 'row', role: 'rowheader' } : { role: 'cell' };
        return el(tag, { ...more, class: kind, 'data-head': head },
          ...(Array.isArray(found) ? found : [found]));
      });
      const line = el('tr', { role: 'row' }, ...cells);
      this.decorate(line, row);
      return line;
    });
    this.body.replaceChildren(...drawn);
    this.table.hidden = !rows.length;
    this.empty.hidden = rows.length > 0;
    this.pages.hidden = rows.length <= size;
    this.sorter.hidden = this.given.length < 3 || this.select.length < 2;
    this.said.textContent = `${count(this.first + 1)} to ${count(last)} of ${count(rows.length)}`;
    this.back.disabled = this.first === 0;
    this.on.disabled = last >= rows.length;
    if (this.drawn) this.drawn();
  }
}

// On paper there is nothing to press.
addEventListener('beforeprint', () => {
  document.querySelectorAll('main details').forEach((fold) => {
    fold.dataset.wasOpen = fold.open ? 'yes' : '';
    fold.open = true;
    fold.dispatchEvent(new Event('toggle'));
  });
  tables.forEach((table) => {
    table.size = MOST_PRINTED;
    table.draw();
  });
});
addEventListener('afterprint', () => {
  document.querySelectorAll('main details').forEach((fold) => {
    fold.open = fold.dataset.wasOpen === 'yes';
  });
  tables.forEach((table) => {
    table.size = table.screen;
    table.draw();
  });
});
