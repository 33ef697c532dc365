// A table of any length, a page of rows at a time: only what is shown is in the document.
const PAGE = 100;
const MOST_PRINTED = 500;
const tables = [];

class Paged {
  // columns: [{ head, cell(row) -> node or text, kind: 'number' | 'name' | 'bar' | 'wide' | undefined }]
  constructor(host, caption, columns, { decorate = () => {}, empty = 'Nothing to show.', size = PAGE } = {}) {
    Object.assign(this, { columns, decorate, rows: [], first: 0, size, screen: size });
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
    const heads = columns.map(({ head, kind }) =>
      el('th', { scope: 'col', role: 'columnheader', class: kind }, head));
    this.table = el('table', { role: 'table', class: 'rows' },
      el('caption', { class: 'sr' }, caption),
      el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' }, ...heads)), this.body);
    host.append(this.table, this.empty, this.pages);
    tables.push(this);
  }

  show(rows, first = 0) {
    Object.assign(this, { rows, first });
    this.draw();
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
    this.said.textContent = `${count(this.first + 1)} to ${count(last)} of ${count(rows.length)}`;
    this.back.disabled = this.first === 0;
    this.on.disabled = last >= rows.length;
    if (this.drawn) this.drawn();
  }
}

// On paper there is nothing to press.
addEventListener('beforeprint', () => tables.forEach((table) => {
  table.size = MOST_PRINTED;
  table.draw();
}));
addEventListener('afterprint', () => tables.forEach((table) => {
  table.size = table.screen;
  table.draw();
}));
